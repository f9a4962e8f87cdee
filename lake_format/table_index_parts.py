"""The side of a table that many processes build an index for: one trains, each encodes its part, one commits.

Tasks and parts are some bytes that travel between processes; the model and the shards are files of the table's store
that no version names before :meth:`TableIndexParts.commit_index`. What is never committed is garbage that collection
removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt

from lake_format.errors import InvalidInputError
from lake_format.index_upkeep import IndexUpkeepRequest
from lake_format.parts import IndexPart, decode_index_part, encode_index_part
from lake_format.table_compaction import positive
from lake_format.table_indexes import TableIndexes

__all__ = ["TableIndexParts"]

_SHARD_ROWS = 4_000_000


class TableIndexParts(TableIndexes):
    """An index built by many processes; it is searched as one that was built at once."""

    def plan_index(
        self,
        column: str,
        metric: str = "l2",
        *,
        name: str | None = None,
        parts: int = 1,
        shard_rows: int | None = None,
        **options: object,
    ) -> list[list[bytes]]:
        """Train an index on a sample, and deal its rows out: the tasks of each shard it will have.

        Each task is some bytes for :meth:`index_part`, in this process or another. A shard of several tasks is made
        whole by :meth:`join_index_parts`, and :meth:`commit_index` makes all of them an index. The rows are those of
        the version that the table is at; nothing is visible before the commit. Memory: the sample, at most 200 MB.

        Parameters
        ----------
        column, metric, name, options
            As for :meth:`create_index`.
        parts
            How many tasks there should be; fewer where there are fewer fragments, as none is parted, and one where
            there are so few rows that they are indexed without codes.
        shard_rows
            About how many rows a shard may have, by default 4,000,000. Few shards are searched faster; writing one
            takes memory for twice its codes, about 90 bytes a row for vectors of 128 components.

        Raises
        ------
        InvalidInputError
            As for :meth:`create_index`.
        """
        self._require_writable()
        self._require_alone("plan_index")
        parts = positive("parts", parts, 1)
        limit = positive("shard_rows", shard_rows, _SHARD_ROWS)
        request = self._index_request(column, metric, name, options)
        snapshot = self._snapshot
        entry, model = self._engine.train_index(snapshot, request)
        fragments = snapshot.fragments
        ids = fragments.integers("fragment_id")
        rows = (fragments.integers("row_count") - fragments.integers("deleted_count")).astype(np.int64)
        shards = _dealt(rows, -(-int(rows.sum()) // limit) if model else 1)
        share = -(-parts // len(shards)) if model else 1
        plan = []
        for number, members in enumerate(shards):
            shares = [members[one] for one in _dealt(rows[members], share)]
            part = IndexPart(
                table_id=snapshot.version.table_id,
                version=snapshot.version.version,
                entry=entry,
                model=model,
                fragment_ids=(),
                shard=(number, len(shards)),
                share=(0, len(shares)),
                left=() if model is None else (model.path,),
            )
            tasks = [
                replace(part, fragment_ids=tuple(ids[one].tolist()), share=(place, len(shares)))
                for place, one in enumerate(shares)
            ]
            plan.append([encode_index_part(task, done=False) for task in tasks])
        return plan

    def index_part(self, task: bytes, *, threads: int | None = None) -> bytes:
        """Do one task of :meth:`plan_index`: encode its vectors into a file. Nothing becomes visible.

        Parameters
        ----------
        threads
            How many to use; all processors by default.

        Returns
        -------
        bytes
            What was written, for :meth:`join_index_parts` or, where it is a whole shard, :meth:`commit_index`.

        Raises
        ------
        InvalidInputError
            A task of another table; or a vector with a NaN or infinite value, named by its row id.
        ExpiredError
            The version that the task was planned on has expired.
        """
        planned = decode_index_part(task, done=False)
        return self._encoded(planned, measure=planned.share[1] == 1, threads=threads)

    def join_index_parts(self, parts: Iterable[bytes], *, threads: int | None = None) -> bytes:
        """Make one shard of all its parts, by copying their codes, and measure what it takes to reach a recall.

        Parameters
        ----------
        parts
            What :meth:`index_part` returned for all tasks of one shard; of two of one task the first is taken.
        threads
            As for :meth:`index_part`.

        Raises
        ------
        InvalidInputError
            Parts of several plans or shards, or not all of one.
        """
        given = [decode_index_part(one, done=True) for one in parts]
        if len({part.shard for part in given}) > 1:
            raise InvalidInputError(
                "the parts are of several shards", fix="join those of each shard by themselves"
            )
        found = _complete(given, lambda part: part.share, "part")
        first = found[0]
        if len(found) == 1:
            return encode_index_part(first, done=True)
        whole = replace(
            first,
            entry=replace(first.entry, shards=tuple(shard for part in found for shard in part.entry.shards)),
            fragment_ids=tuple(number for part in found for number in part.fragment_ids),
            share=(0, 1),
            left=tuple(dict.fromkeys(path for part in found for path in (*part.left, *part.files))),
        )
        return self._encoded(whole, measure=True, threads=threads)

    def commit_index(self, parts: Iterable[bytes]) -> Self:
        """Make shards an index of the table, all of them in one commit; files of the work in between are removed.

        Rows appended since the plan are searched one by one until the index is optimized, as after
        :meth:`create_index`.

        Parameters
        ----------
        parts
            A whole shard each, all shards of one plan.

        Raises
        ------
        InvalidInputError
            Parts of another table or of several plans, a shard that is missing or not joined.
        ConflictError
            The table changed since so that the index does not fit it.
        """
        self._require_writable()
        self._require_alone("commit_index")
        found = _complete(
            [decode_index_part(one, done=True) for one in parts], lambda part: part.shard, "shard"
        )
        unjoined = next((part for part in found if part.share[1] > 1), None)
        if unjoined is not None:
            raise InvalidInputError(
                f"shard {unjoined.shard[0]} is in {unjoined.share[1]} parts",
                fix="join_index_parts() makes it whole",
            )
        base = self._read_as_planned(found[0].version, found[0].table_id).version
        shards = tuple(shard for part in found for shard in part.entry.shards)
        self._add_index(replace(found[0].entry, shards=shards), base)
        kept = {shard.path for shard in shards}
        left = {path for part in found for path in part.left} - kept
        self._engine.discard_files(self._store, (), sorted(left))
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _encoded(self, part: IndexPart, *, measure: bool, threads: int | None) -> bytes:
        """Put the rows of a part's fragments into one shard, copied from those it has where they are there."""
        snapshot = self._read_as_planned(part.version, part.table_id).restricted(part.fragment_ids)
        request = IndexUpkeepRequest(
            entry=part.entry,
            model=part.model,
            retrain=False,
            join=True,
            measure=measure,
            threads=None if threads is None else positive("threads", threads, 1),
            new_id=self._around.new_id,
        )
        rows = self._engine.optimize_index(snapshot, request)
        entry = part.entry
        if rows is not None:
            entry = replace(entry, kind=rows.kind, parameters=rows.parameters, shards=rows.shards)
        return encode_index_part(replace(part, entry=entry), done=True)


def _complete(
    parts: Sequence[IndexPart], place: Callable[[IndexPart], tuple[int, int]], what: str
) -> list[IndexPart]:
    """Parts of one plan in their order, the first of each; InvalidInputError unless none is missing."""
    if not parts:
        raise InvalidInputError(f"there is no {what}", fix="plan_index() says which there are to be")
    if len({part.plan for part in parts}) > 1:
        raise InvalidInputError("the parts are of several plans", fix="commit what one plan_index() said")
    known: dict[int, IndexPart] = {}
    for part in parts:
        known.setdefault(place(part)[0], part)
    count = place(parts[0])[1]
    missing = next((number for number in range(count) if number not in known), None)
    if missing is not None:
        raise InvalidInputError(
            f"{what} {missing} of {count} is missing", fix="do its task and hand in all of them"
        )
    return [known[number] for number in range(count)]


def _dealt(rows: npt.NDArray[np.int64], count: int) -> list[npt.NDArray[np.int64]]:
    """Places dealt into at most so many runs of about as many rows; none is empty."""
    total = max(1, int(rows.sum()))
    middle = np.cumsum(rows) - rows // 2
    owner = np.minimum(middle * count // total, count - 1)
    return np.split(np.arange(len(rows)), np.flatnonzero(np.diff(owner)) + 1)
