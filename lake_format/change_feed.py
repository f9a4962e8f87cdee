"""The change data feed: what commits did to rows, version after version, as a stream of record batches.

For each version it asks :mod:`lake_format.commit_changes` which rows are concerned and reads those, as the schema of
the last version has them, before and after. Memory is a few thousand rows, however long the feed (spec/versions.md,
VER-12 to VER-14).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.column_defaults import default_of
from lake_format.commit_changes import CommitChanges, all_changes_of, changes_of
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError
from lake_format.history import is_kept
from lake_format.id_ranges import IdRanges, ids_of
from lake_format.log import ExpiredError, VersionLog
from lake_format.manifest import FragmentTable
from lake_format.model import Version
from lake_format.row_compare import differing
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID, field_id
from lake_format.schema_edit import ids_within
from lake_format.snapshot import Snapshot
from lake_format.viewing import readable_schema, seen_as

__all__ = ["CHANGE_COLUMNS", "change_feed"]

CHANGE_COLUMNS = pa.schema(
    [
        pa.field("_change", pa.string(), False),
        pa.field("_row_id", pa.int64(), False),
        pa.field("_version", pa.int64(), False),
        pa.field("_committed_at", pa.timestamp("us", "UTC"), False),
    ]
)
"""What the feed tells of each change, before the columns of the table."""
_ROWS_AT_ONCE = 4096


class RowReads(Protocol):
    """The part of an engine that the feed needs."""

    def take(self, snapshot: Snapshot, row_ids: U64, columns: tuple[str, ...]) -> pa.Table:
        """One row per row id, in the order asked for."""
        ...

    def scan(self, snapshot: Snapshot, request: ScanRequest) -> pa.RecordBatchReader:
        """Live rows as a stream."""
        ...


def change_feed(
    log: VersionLog, since: Snapshot, until: Snapshot, names: Sequence[str], newest: Version, rows: RowReads
) -> pa.RecordBatchReader:
    """The changes that the versions after ``since`` made, up to ``until``.

    Parameters
    ----------
    names
        Columns of ``until``.
    newest
        The newest version, which tells what has expired.

    Raises
    ------
    InvalidInputError
        ``since`` is the later version, or a column has a name that the feed itself uses.
    ExpiredError
        A version in between has expired: what it changed cannot be told any more.
    """
    first, last = since.version.version, until.version.version
    if first > last:
        raise InvalidInputError(
            f"there is nothing since version {first} until version {last}", fix="until must be the later one"
        )
    lost = next((number for number in range(first, last + 1) if not is_kept(newest, number)), None)
    if lost is not None:
        raise ExpiredError(
            f"what changed since version {first} cannot be told: version {lost} has expired",
            fix=f"read version {newest.horizon} as a whole and follow the changes from there",
        )
    taken = [name for name in names if name in CHANGE_COLUMNS.names]
    if taken:
        raise InvalidInputError(
            f"column {taken[0]!r} has the name of a column of the feed", fix="leave it out of columns="
        )
    feed = _Feed(log, until, tuple(names), rows)
    return pa.RecordBatchReader.from_batches(feed.schema, feed.batches(since))


@dataclass(frozen=True, slots=True)
class _Side:
    """Fragments that a commit touched, before or after it, seen as the schema of the feed's last version."""

    view: Snapshot
    number: int
    has: frozenset[str]
    """The columns that this version has; the others are NULL in it."""


@dataclass(frozen=True, slots=True)
class _Sides:
    version: Version
    before: _Side
    after: _Side


class _Feed:
    def __init__(self, log: VersionLog, until: Snapshot, names: tuple[str, ...], rows: RowReads) -> None:
        self._log = log
        self._until = until
        self._names = names
        self._rows = rows
        self._columns = pa.schema([field.with_nullable(True) for field in until.user_schema])
        self.schema = pa.schema([*CHANGE_COLUMNS, *(self._columns.field(name) for name in names)])

    def batches(self, since: Snapshot) -> Iterator[pa.RecordBatch]:
        """All changes, in the order of versions; within one: deletes, updates, inserts."""
        before, last = since, self._until.version
        for number in range(since.version.version + 1, last.version + 1):
            version = last if number == last.version else self._log.read(number)
            after = Snapshot(self._until.store, version, self._until.manifests)
            if self._has_other_columns(before, after):
                yield from self._of_commit(before, after, all_changes_of(before, after))
            elif before.version.manifests != version.manifests:
                changes = changes_of(before.version, version, after.manifests)
                yield from self._of_commit(before, after, changes)
            before = after

    def _has_other_columns(self, before: Snapshot, after: Snapshot) -> bool:
        """Whether a column went that came back later, came back, or came with a default; files tell of others."""
        old, new = self._has(before), self._has(after)
        came = [self._until.schema.field(name) for name in new - old]
        known = any(field_id(one) < before.version.next_field_id for one in came)
        return bool(old - new) or known or any(default_of(one) is not None for one in came)

    def _has(self, snapshot: Snapshot) -> frozenset[str]:
        ids = {field_id(field) for field in snapshot.schema}
        return frozenset(field.name for field in self._until.schema if field_id(field) in ids)

    def _of_commit(
        self, before: Snapshot, after: Snapshot, changes: CommitChanges
    ) -> Iterator[pa.RecordBatch]:
        sides = _Sides(after.version, self._side(before, changes.gone), self._side(after, changes.came))
        for ids in _in_parts(changes.deleted):
            yield self._labelled(sides, "delete", ids, self._take(sides.before, ids, self._names))
        yield from self._updates(sides, changes)
        if len(changes.gone):
            for ids in _in_parts(changes.inserted):
                yield self._labelled(sides, "insert", ids, self._take(sides.after, ids, self._names))
        else:  # every row that came is new
            yield from self._appended(sides)

    def _side(self, snapshot: Snapshot, fragments: FragmentTable) -> _Side:
        schema = readable_schema(snapshot.schema, self._until.schema)
        return _Side(snapshot.viewed(fragments, schema), snapshot.version.version, self._has(snapshot))

    def _take(self, side: _Side, ids: U64, names: Sequence[str]) -> pa.Table:
        there = tuple(name for name in names if name in side.has)
        return self._completed(
            side, self._rows.take(side.view, ids, there) if there else None, len(ids), names
        )

    def _completed(self, side: _Side, found: pa.Table | None, rows: int, names: Sequence[str]) -> pa.Table:
        """The columns asked for, NULL where they were not found."""
        have = frozenset(found.schema.names if found is not None else ())
        columns = [
            seen_as(found.column(field.name), field, side.number)
            if found is not None and field.name in have
            else pa.nulls(rows, field.type)
            for field in map(self._columns.field, names)
        ]
        return pa.table(columns, names=list(names))

    def _appended(self, sides: _Sides) -> Iterator[pa.RecordBatch]:
        there = [name for name in self._names if name in sides.after.has]
        request = ScanRequest(columns=(ROW_ID, *there), batch_rows=_ROWS_AT_ONCE)
        for batch in self._rows.scan(sides.after.view, request):
            rows = self._completed(sides.after, pa.Table.from_batches([batch]), batch.num_rows, self._names)
            yield self._labelled(sides, "insert", batch.column(0).to_numpy(), rows)

    def _updates(self, sides: _Sides, changes: CommitChanges) -> Iterator[pa.RecordBatch]:
        compared = self._compared(changes.fields)
        wanted = tuple(dict.fromkeys((*self._names, *compared)))
        if not compared:
            return
        for ids in _in_parts(changes.suspects):
            old, new = (self._take(side, ids, wanted) for side in (sides.before, sides.after))
            at = np.flatnonzero(differing(old.select(compared), new.select(compared)))
            if len(at) == 0:
                continue
            images = [table.select(self._names).take(at) for table in (old, new)]
            pairs = np.arange(2 * len(at)).reshape(2, -1).T.reshape(-1)  # before and after side by side
            both = pa.concat_tables(images).take(pairs)
            labels = pa.array(["update_preimage", "update_postimage"] * len(at))
            yield self._labelled(sides, labels, np.repeat(ids[at], 2), both)

    def _compared(self, fields: frozenset[int] | None) -> list[str]:
        """The columns whose values may have changed."""
        schema = self._until.schema
        return [field.name for field in schema if fields is None or fields & ids_within(field)]

    def _labelled(
        self, sides: _Sides, change: str | pa.Array, ids: npt.NDArray[np.integer], rows: pa.Table
    ) -> pa.RecordBatch:
        count = len(ids)
        told = [
            pa.repeat(pa.scalar(change), count) if isinstance(change, str) else change,
            pa.array(ids.astype(np.int64)),
            pa.repeat(pa.scalar(sides.version.version, pa.int64()), count),
            pa.repeat(pa.scalar(sides.version.committed_at, self.schema.field("_committed_at").type), count),
        ]
        columns = [_one_chunk(column) for column in rows.columns]
        return pa.RecordBatch.from_arrays([*told, *columns], schema=self.schema)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    merged = column.combine_chunks()
    return merged.combine_chunks() if isinstance(merged, pa.ChunkedArray) else merged


def _in_parts(ranges: IdRanges) -> Iterator[U64]:
    """The row ids of a set, some thousands at a time."""
    starts, stops = ranges
    ends = np.cumsum(stops - starts)
    total = int(ends[-1]) if len(ends) else 0
    for low in range(0, total, _ROWS_AT_ONCE):
        high = min(low + _ROWS_AT_ONCE, total)
        first, last = np.searchsorted(ends, [low, high - 1], side="right")
        part = slice(first, last + 1)
        before = ends[part] - (stops[part] - starts[part])
        yield ids_of(
            (
                starts[part] + np.maximum(low - before, 0),
                stops[part] - np.maximum(ends[part] - high, 0),
            )
        )
