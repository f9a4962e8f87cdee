"""The side of a table that puts several operations into one commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.pending import PendingCommit
from lake_format.table_core import TableCore, checked_idempotency
from lake_format.transaction import REFUSALS

__all__ = ["TableTransaction"]

_ISOLATION = ("snapshot", "serializable")


class TableTransaction(TableCore):
    """Several operations, all or nothing."""

    @contextmanager
    def transaction(
        self, *, isolation: str | None = None, idempotency: tuple[str, int] | None = None
    ) -> Iterator[Self]:
        """Do several things in one commit: it lands when the block ends, and not at all if the block raises.

        The block gets a table that reads the newest version as of now and what the block did since; nobody else sees
        any of that before the commit, and nothing that others commit meanwhile is seen in it. It takes appends,
        changes of rows, columns and properties, backfills in one go, and ``create_index`` and ``drop_index``.

        If others committed meanwhile, each operation is judged against theirs by the conflict matrix. Where all of
        them commute with theirs they land as they were done. Where one has to be planned again, or works on what
        another one of the block made, all are done again in their order on the newest version, from the rows and
        expressions that were handed in; the block itself does not run again. Row ids of rows added in the block are
        settled by the commit.

        Parameters
        ----------
        isolation
            ``snapshot`` or ``serializable``; None is the table's ``write.isolation``. Under ``serializable`` what a
            filter or expression would have seen must not have changed.
        idempotency
            As in :meth:`append`, for the whole: nothing lands if the writer has committed this number before.

        Raises
        ------
        ConflictError
            Others did what does not go together with the block; nothing became visible.
        """
        if isolation not in (None, *_ISOLATION):
            raise InvalidInputError(
                f"unknown isolation {isolation!r}", fix=f"isolation is {' or '.join(_ISOLATION)}"
            )
        mark = checked_idempotency(idempotency)
        self._require_writable()
        if self._pending is not None:
            raise UnsupportedError("a transaction cannot begin within another one", fix="use the outer one")
        base = self.refresh().snapshot.version
        pending = PendingCommit(base, self._manifests)
        inside = type(self)(
            self._store, base, engine=self._engine, surroundings=self._around, pending=pending
        )
        try:
            yield inside
        except BaseException:
            pending.discard(self._engine, self._store)
            pending.end()
            raise
        try:
            if pending.changes:
                strict = None if isolation is None else isolation == "serializable"
                self._commit(*pending.changes, base=base, idempotency=mark, serializable=strict)
        except REFUSALS:  # of anything else it is not known whether it landed
            pending.discard(self._engine, self._store)
            raise
        finally:
            pending.end()
