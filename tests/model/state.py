"""What a version of the model table holds: fragments, columns, indexes, counters. Values and reads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lake_format.operation_record import OperationRecord
from lake_format.row_runs import RowRuns

Value = int | None
Row = dict[int, Value]
Rows = dict[int, Row]

LINE_STRIDE = 1 << 40
KEY, VECTOR = 1, 4


class ViolationError(AssertionError):
    """The model reached a state that the specification forbids."""


@dataclass(frozen=True)
class Group:
    """One file: some columns of a fragment, one value a position."""

    columns: Mapping[int, tuple[Value, ...]]


@dataclass(frozen=True)
class Patch:
    """A small file: new values of one column at some positions; later patches win."""

    field: int
    values: Mapping[int, Value]


@dataclass(frozen=True)
class Fragment:
    """One entry: rows at positions, each with its row id; ``deleted`` positions are not live."""

    fragment_id: int
    row_ids: tuple[int, ...]
    groups: tuple[Group, ...]
    patches: tuple[Patch, ...] = ()
    deleted: frozenset[int] = frozenset()

    def value(self, position: int, field_id: int) -> Value:
        for patch in reversed(self.patches):
            if patch.field == field_id and position in patch.values:
                return patch.values[position]
        for group in self.groups:
            if field_id in group.columns:
                return group.columns[field_id][position]
        return None

    def live(self) -> Iterator[tuple[int, int]]:
        """(position, row id) of every live row."""
        for position, row_id in enumerate(self.row_ids):
            if position not in self.deleted:
                yield position, row_id


@dataclass(frozen=True)
class Column:
    """A column; a computed one always holds ``source + constant`` of its row."""

    name: str
    required: bool = False
    computed: tuple[int, int] | None = None  # (source field, constant)


@dataclass(frozen=True)
class Shard:
    """One index file. ``encoded[o]`` is the value of the o-th smallest row id of ``covered``."""

    shard_id: int
    covered: RowRuns
    encoded: tuple[Value, ...]
    stale: frozenset[int] = frozenset()

    def answers(self) -> dict[int, Value]:
        """What the index says: value by row id, for the rows it still answers for."""
        by_rank = zip(self.covered, self.encoded, strict=True)
        return {row_id: value for row_id, value in by_rank if row_id not in self.stale}


@dataclass(frozen=True)
class Index:
    index_id: int
    name: str
    field: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of one line (main or a branch)."""

    line: int
    number: int
    fragments: Mapping[int, Fragment]
    columns: Mapping[int, Column]
    indexes: Mapping[str, Index] = field(default_factory=dict)
    keyed: bool
    next_row_id: int
    next_fragment_id: int
    next_field_id: int
    properties: Mapping[str, int] = field(default_factory=dict)
    refs: Mapping[str, int] = field(default_factory=dict)
    horizon: int = 0
    sequences: Mapping[str, int] = field(default_factory=dict)
    committed_at: int = 0
    commit_id: str = ""
    records: tuple[OperationRecord, ...] = ()

    def rows(self) -> Rows:
        """Every live row by row id, live columns only."""
        found: Rows = {}
        for fragment in self.fragments.values():
            for position, row_id in fragment.live():
                if row_id in found:
                    raise ViolationError(f"row {row_id} is live twice")
                found[row_id] = {f: fragment.value(position, f) for f in self.columns}
        return found

    def places(self) -> dict[int, tuple[int, int]]:
        """Where each live row is: (fragment id, position)."""
        return {r: (f.fragment_id, p) for f in self.fragments.values() for p, r in f.live()}

    def search(self, index: Index, query: int, k: int) -> list[tuple[int, int]]:
        """The k nearest (distance, row id): index shards for what they cover, a flat scan for the rest."""
        places = self.places()
        answered: dict[int, Value] = {}
        for shard in index.shards:
            answered.update(shard.answers())
        values = {row_id: value for row_id, value in answered.items() if row_id in places}
        for row_id, (fragment_id, position) in places.items():
            if row_id not in answered:
                values[row_id] = self.fragments[fragment_id].value(position, index.field)
        return nearest(values, query, k)


def nearest(values: Mapping[int, Value], query: int, k: int) -> list[tuple[int, int]]:
    """The k smallest (distance, row id) over rows that have a value."""
    return sorted((abs(v - query), r) for r, v in values.items() if v is not None)[:k]
