"""What a version holds, in plain Python: columns, rows by row id, indexes, tags; and what an operation does to it.

Columns have numbers of the model's own, so that a renamed column stays the same and a new one of an old name is
another. Values are kept by these numbers and never converted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

Value = Any
Row = Mapping[int, Value]


class _Numbers:
    """Where columns get their numbers; begins anew with each history, so that a history can be told again."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self._next = itertools.count(100)

    def __call__(self) -> int:
        return next(self._next)


NUMBERS = _Numbers()

TYPES: dict[str, pa.DataType] = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "large_string": pa.large_string(),
    "vector3": pa.list_(pa.float32(), 3),
    "vector2": pa.list_(pa.float16(), 2),
}
WIDER = {"int8": "int16", "int16": "int32", "int32": "int64", "float32": "float64", "string": "large_string"}
NAMES = ("", "a", "b", "ä", "a longer text")


@dataclass(frozen=True)
class Column:
    """A column, or a member of a struct."""

    name: str
    kind: str
    nullable: bool = True
    members: tuple[Column, ...] = ()
    number: int = field(default_factory=NUMBERS)
    default: Value = None

    @property
    def type(self) -> pa.DataType:
        return pa.struct([one.arrow() for one in self.members]) if self.members else TYPES[self.kind]

    def arrow(self) -> pa.Field:
        return pa.field(self.name, self.type, self.nullable)

    def show(self, value: Value) -> Value:
        """A value as the table gives it back."""
        if value is None:
            return None
        if self.members:
            return {one.name: one.show(value.get(one.number)) for one in self.members}
        return list(value) if isinstance(value, tuple) else value

    def value(self, seed: tuple[int, ...]) -> Value:
        """A value made of small numbers; the smallest stands for NULL."""
        number = seed[self.number % len(seed)]
        if number == NULL and self.nullable:
            return None
        if self.members:
            return {one.number: one.value(seed) for one in self.members}
        if self.kind.startswith("vector"):
            mixed = sum(seed) + 3 * number
            return tuple(
                ((mixed * (7 + place) + 5 * place) % 17 - 8) / 4 for place in range(int(self.kind[-1]))
            )
        if self.kind.endswith("string"):
            return NAMES[number % len(NAMES)]
        return number / 4 if self.kind.startswith("float") else number


NULL = -6


@dataclass(frozen=True)
class State:
    """One version."""

    columns: tuple[Column, ...]
    key: int | None = None
    rows: Mapping[int, Row] = field(default_factory=dict)
    next_row_id: int = 0
    indexes: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    tags: Mapping[str, int] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    sequences: Mapping[str, int] = field(default_factory=dict)
    horizon: int = 1
    number: int = 1
    asked_at: int | None = None
    history: Mapping[int, State] = field(default_factory=dict, compare=False, repr=False)

    @property
    def reading(self) -> int:
        """The version that a request was made on, if it is carried out on a later one; else this one."""
        return self.number if self.asked_at is None else self.asked_at

    def keeps(self, number: int) -> bool:
        """Whether a version has not expired."""
        return self.horizon <= number <= self.number or number in self.tags.values()

    def older(self, number: int) -> State | None:
        return self.history.get(number) if self.keeps(number) else None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([one.arrow() for one in self.columns])

    def column(self, number: int) -> Column | None:
        return next((one for one in self.columns if one.number == number), None)

    def named(self, name: str) -> Column | None:
        return next((one for one in self.columns if one.name == name), None)

    def show(self, row: Row) -> dict[str, Value]:
        return {one.name: one.show(row.get(one.number)) for one in self.columns}

    def shown(self) -> dict[int, dict[str, Value]]:
        return {row_id: self.show(row) for row_id, row in self.rows.items()}

    def pick(self, choice: int, wanted: Callable[[Column], bool] = lambda _: True) -> Column | None:
        """One of the columns that are wanted; the first one, which tells rows apart, only by :attr:`rows`."""
        found = [one for one in self.columns if one.number != ID and wanted(one)]
        return found[choice % len(found)] if found else None

    def with_column(self, changed: Column) -> State:
        columns = tuple(changed if one.number == changed.number else one for one in self.columns)
        return replace(self, columns=columns)


ID = 0


class RefusedError(Exception):
    """The table must refuse this, with one of these errors."""

    def __init__(self, *errors: type[Exception]) -> None:
        super().__init__(errors)
        self.errors = errors


class ImpossibleError(Exception):
    """No version may look like this: a key twice, NULL where it is forbidden."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What an operation does, in terms of row ids and column numbers, so that it can be applied to a later version.

    Attributes
    ----------
    kind
        As the conflict matrix names it.
    edit
        What happens to everything but rows.
    reads
        Columns by whose values rows were chosen or values computed.
    columns
        Columns that were given values or changed.
    claims, keys
        Names, and keys of rows, that somebody else may bring as well.
    required
        Whether a column got a rule that rows of others may break.
    commits
        How many commits it may take; None: any number.
    """

    kind: str
    deletes: frozenset[int] = frozenset()
    sets: Mapping[int, Row] = field(default_factory=dict)
    inserts: tuple[Row, ...] = ()
    edit: Callable[[State], State] | None = None
    reads: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    claims: frozenset[str] = frozenset()
    keys: frozenset[Value] = frozenset()
    required: bool = False
    commits: frozenset[int] | None = frozenset({1})

    @property
    def touched(self) -> frozenset[int]:
        return self.deletes | self.sets.keys()

    @property
    def changes_nothing(self) -> bool:
        return not (self.deletes or self.sets or self.inserts or self.edit)

    def apply(self, state: State) -> State:
        """The version that this makes of another one."""
        if self.edit is not None:
            state = self.edit(state)
        rows = {row_id: row for row_id, row in state.rows.items() if row_id not in self.deletes}
        for row_id, values in self.sets.items():
            if row_id in rows:
                rows[row_id] = {**rows[row_id], **values}
        defaults = {one.number: one.default for one in state.columns if one.default is not None}
        inserts = [{**defaults, **row} for row in self.inserts]  # whoever knew of a column says what it holds
        rows |= dict(enumerate(inserts, state.next_row_id))
        after = replace(state, rows=rows, next_row_id=state.next_row_id + len(self.inserts))
        check_rules(after)
        return after


def check_rules(state: State) -> None:
    """Keys are there once, and nothing is NULL that may not be."""
    if state.key is not None:
        keys = [row[state.key] for row in state.rows.values()]
        if len(keys) != len(set(keys)):
            raise ImpossibleError("a key is there twice")
    for column in state.columns:
        if column.kind == "struct" and not column.members:
            raise ImpossibleError(f"nothing in {column.name}")
        if not column.nullable and any(row.get(column.number) is None for row in state.rows.values()):
            raise ImpossibleError(f"NULL in {column.name}")


def meets(condition: str, mine: Effect, theirs: Effect, *, certainly: bool) -> bool:
    """Whether a condition of the conflict matrix holds; what it cannot tell does, unless asked for certainty."""
    both = mine.touched & theirs.sets.keys()
    match condition:
        case "always":
            return True
        case "same_name":
            return bool(mine.claims & theirs.claims)
        case "same_key":
            return bool(mine.keys & theirs.keys)
        case "same_column":
            return not certainly and bool(mine.columns & theirs.columns)
        case "read_column":
            return not certainly and bool(mine.reads & theirs.columns)
        case "values_read":
            return not certainly and bool(both) and bool(mine.reads & theirs.columns)
        case "values_written":
            # A record tells rows and columns apart from each other, so others may count as the same.
            exact = any(mine.sets.get(row_id, {}).keys() & theirs.sets[row_id].keys() for row_id in both)
            return exact or (not certainly and bool(both) and bool(mine.columns & theirs.columns))
        case "required":
            return not certainly and (mine.required or theirs.required)
    return False
