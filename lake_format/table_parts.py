"""The side of a table that many processes write together: each writes its part, one commits them all.

A part is a few hundred bytes that travel between processes: which files were written, and at which version. Nothing
is visible before :meth:`TableParts.commit_parts`; parts that are never committed are garbage that collection removes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

from lake_format.changes import AddFragments
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.keys import key_columns
from lake_format.model import Fragment, NewFragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.parts import Part, decode_part, encode_part, unplaced
from lake_format.row_changes import ChangeRows
from lake_format.row_edits import RowRequest
from lake_format.snapshot import Snapshot
from lake_format.table_core import TableCore, checked_idempotency
from lake_format.transaction import Change, Idempotency

__all__ = ["TableParts"]


class TableParts(TableCore):
    """Appending from many processes with one commit."""

    def write_part(self, data: object) -> bytes:
        """Write rows that are not part of the table yet; for :meth:`commit_parts`, in this process or another.

        Parameters
        ----------
        data
            As for :meth:`append`.

        Returns
        -------
        bytes
            What was written, to be handed to whoever commits. Empty where there were no rows.

        Raises
        ------
        UnsupportedError
            The table has a key: its rows must be compared with each other, which no part can do alone.
        """
        version = self._snapshot.version
        if key_columns(version):
            raise UnsupportedError(
                "the table has a key, and the rows of a part are compared with no other part's",
                fix="write the parts to a table without key and upsert() from it",
            )
        written = self._engine.write(self._store, self._write_request(data, version))
        return encode_part(version, _counted(written.fragments), written.features) if written.rows else b""

    def commit_parts(
        self,
        parts: Iterable[bytes],
        *,
        overwrite: bool = False,
        idempotency: tuple[str, int] | None = None,
    ) -> Self:
        """Append the rows of parts, all or none, in one commit.

        Parameters
        ----------
        parts
            What :meth:`write_part` returned; all of one version of this table.
        overwrite
            Delete, in the same commit, every row of the version the parts were written at. Rows that others append
            meanwhile stay.
        idempotency
            As for :meth:`append`.

        Raises
        ------
        InvalidInputError
            Parts of another table, or of several versions.
        ConflictError
            The table changed since so that the rows do not fit it. The files stay until they are collected, or
            :meth:`discard_parts` removes them.
        """
        self._require_writable()
        mark = checked_idempotency(idempotency)
        found = [decode_part(part) for part in parts if part]
        if any(part.replaces is not None for part in found):
            raise InvalidInputError(
                "a part holds rows that the table has already", fix="hand it to commit_compaction()"
            )
        base = self._base_of(found)
        if not found and not overwrite:
            return self
        fragments = tuple(unplaced(fragment) for part in found for fragment in part.fragments)
        rows = sum(part.rows for part in found)
        changes: list[Change] = []
        if overwrite:
            changes += self._everything_deleted(base)
        changes.append(
            AddFragments(
                record=OperationRecord(kind="append", rows_added=rows),
                summary={"rows": rows, "fragments": len(fragments), "parts": len(found)},
                fragments=fragments,
                features=frozenset[str]().union(*(part.features for part in found)),
                first_row_id=base.next_row_id,
                completing=None if overwrite else self._completing(base),
            )
        )
        self._land(changes, base, mark)
        return self

    def is_committed(self, idempotency: tuple[str, int]) -> bool:
        """Whether a job has committed already, so that it need not write what would not be committed again.

        Parameters
        ----------
        idempotency
            As for :meth:`append`.
        """
        mark = checked_idempotency(idempotency)
        self.refresh()
        return self._is_done(mark)

    def discard_parts(self, parts: Iterable[bytes]) -> None:
        """Remove the files of parts that will not be committed.

        Parts that were committed are left alone, whoever is told to discard them: a job may fail after its commit.
        """
        found = [decode_part(part) for part in parts if part]
        if not found:
            return
        live = self._files_since(min(part.version for part in found))
        for part in found:
            groups = [group for fragment in part.fragments for group in fragment.groups]
            self._engine.discard_files(self._store, [group for group in groups if group.path not in live])

    # --- inside -------------------------------------------------------------------------------------------

    def _base_of(self, parts: Sequence[Part]) -> Version:
        """The version that parts were written at."""
        newest = self.refresh().snapshot.version
        if not parts:
            return newest
        if any(part.table_id != newest.table_id for part in parts):
            raise InvalidInputError("a part was written for another table", fix="write it anew")
        versions = {part.version for part in parts}
        if len(versions) > 1:
            raise InvalidInputError(
                f"the parts were written at the versions {', '.join(map(str, sorted(versions)))}",
                fix="open the table at one version in all processes",
            )
        number = versions.pop()
        return newest if number == newest.version else self._log.read(number)

    def _everything_deleted(self, base: Version) -> list[Change]:
        snapshot = Snapshot(self._store, base, self._manifests)
        request = RowRequest(kind="delete", where="true", new_id=self._around.new_id)
        plan = self._engine.plan_rows(snapshot, request)
        return [] if plan.changes_nothing else [ChangeRows(self._engine, request, plan)]

    def _land(self, changes: Sequence[Change], base: Version, mark: Idempotency | None) -> None:
        self._commit(*changes, base=base, idempotency=mark)

    def _files_since(self, version: int) -> set[str]:
        """Files that any version from one on has: those of the newest, and of the fragments added on the way."""
        newest = self.refresh().snapshot.version
        paths: set[str] = set()
        for number in range(version, newest.version + 1):
            one = newest if number == newest.version else self._log.find(number)
            if one is not None:
                snapshot = Snapshot(self._store, one, self._manifests)
                paths.update(file.path for f in snapshot.fragments.fragments() for file in f.files())
        return paths


def _counted(fragments: Sequence[NewFragment]) -> list[Fragment]:
    """New fragments with ids of their own, so that they can be told as a manifest."""
    first, placed = 0, []
    for number, fragment in enumerate(fragments):
        placed.append(fragment.placed(number, first_row_id=first))
        first += fragment.row_count
    return placed
