"""Operations that change rows. Each says what it calls (:meth:`run`) and what that means (:meth:`plan`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
from hypothesis import strategies as st

import lake_format as lake

from .filters import FILTERS, Bound, Filter
from .state import ID, Column, Effect, RefusedError, Row, State

SEEDS = st.tuples(st.integers(0, 30), *[st.integers(-6, 9)] * 4)
ROWS = st.lists(SEEDS, min_size=1, max_size=6).map(tuple)
Seeds = tuple[tuple[int, ...], ...]
ONCE = frozenset({1})
ONCE_OR_NOT = frozenset({0, 1})


@dataclass(frozen=True)
class Operation:
    """Something one calls on a table."""

    refreshes: ClassVar[bool] = True

    def plans_on_newest(self, keyed: bool) -> bool:
        """Whether it is planned on the newest version, whatever the table object reads."""
        return self.refreshes

    def plan(self, state: State) -> Effect | None:
        """What it does to a version; None where it makes no sense there, RefusedError where it must fail."""
        raise NotImplementedError

    def run(self, table: lake.Table, state: State) -> Any:
        """Call it; names are those of ``state``."""
        raise NotImplementedError


def rows_of(seeds: Seeds, state: State, columns: tuple[Column, ...] | None = None) -> tuple[Row, ...]:
    """Rows of the model made of small numbers; the first number is the id."""
    wanted = state.columns if columns is None else columns
    return tuple(
        {one.number: seed[0] if one.number == ID else one.value(seed[1:]) for one in wanted} for seed in seeds
    )


def whole(row: Row, state: State) -> Row:
    """A new row with NULL in columns that it leaves out: they are known, so they do not take their default."""
    return {**dict.fromkeys(one.number for one in state.columns), **row}


def as_arrow(rows: tuple[Row, ...], columns: tuple[Column, ...]) -> pa.Table:
    shown = [{one.name: one.show(row.get(one.number)) for one in columns} for row in rows]
    return pa.Table.from_pylist(shown, schema=pa.schema([one.arrow() for one in columns]))


def keys_of(rows: tuple[Row, ...], state: State) -> frozenset[Any]:
    return frozenset() if state.key is None else frozenset(row[state.key] for row in rows)


def refuse_taken(rows: tuple[Row, ...], state: State, gone: frozenset[int] = frozenset()) -> None:
    """In a table with a key, keys must be new and different."""
    keys = [row[ID] for row in rows]
    taken = {row[ID] for row_id, row in state.rows.items() if row_id not in gone}
    if state.key is not None and (len(set(keys)) < len(keys) or taken & set(keys)):
        raise RefusedError(lake.DuplicateKeyError)


@dataclass(frozen=True)
class Append(Operation):
    rows: Seeds
    job: int | None = None

    def plans_on_newest(self, keyed: bool) -> bool:
        return keyed or self.job is not None

    def is_done(self, state: State) -> bool:
        """Whether it is part of a job that got so far before."""
        return self.job is not None and state.sequences.get("job", -1) >= self.job

    def plan(self, state: State) -> Effect:
        if self.is_done(state):
            return Effect(kind="append", commits=ONCE_OR_NOT)
        rows = rows_of(self.rows, state)
        refuse_taken(rows, state)
        job = self.job
        edit = None if job is None else lambda now: replace(now, sequences={**now.sequences, "job": job})
        columns = frozenset(one.number for one in state.columns)
        return Effect(kind="append", inserts=rows, keys=keys_of(rows, state), columns=columns, edit=edit)

    def run(self, table: lake.Table, state: State) -> Any:
        data = as_arrow(rows_of(self.rows, state), state.columns)
        return table.append(data, idempotency=None if self.job is None else ("job", self.job))


@dataclass(frozen=True)
class Delete(Operation):
    where: Filter

    def plan(self, state: State) -> Effect:
        where = self.where.bind(state)
        return Effect(kind="delete", deletes=where.chosen(state), reads=where.reads, commits=ONCE_OR_NOT)

    def run(self, table: lake.Table, state: State) -> Any:
        return table.delete(self.where.bind(state).given)


@dataclass(frozen=True)
class Update(Operation):
    column: int
    value: int
    where: Filter
    computed: bool = False

    def _bound(self, state: State) -> tuple[Column | None, Bound]:
        return state.pick(self.column), self.where.bind(state)

    def plan(self, state: State) -> Effect | None:
        column, where = self._bound(state)
        if column is None:
            return None
        chosen = where.chosen(state)
        sets = {row_id: {column.number: self._new(column, state.rows[row_id])} for row_id in chosen}
        read = (column,) if self._adds(column) else state.columns if self.computed else ()
        reads = where.reads | {one.number for one in read}
        return Effect(
            kind="update", sets=sets, reads=reads, columns=frozenset({column.number}), commits=ONCE_OR_NOT
        )

    def _adds(self, column: Column) -> bool:
        return self.computed and column.kind.startswith(("int", "float"))

    def _new(self, column: Column, row: Row) -> Any:
        if self._adds(column):
            old = row.get(column.number)
            return None if old is None else old + 1
        return column.value((self.value,) * 4)

    def run(self, table: lake.Table, state: State) -> Any:
        column, where = self._bound(state)
        assert column is not None
        new: Any = pa.scalar(column.show(self._new(column, {})), column.type)
        if self._adds(column):
            new = lake.sql(f'"{column.name}" + 1')
        elif self.computed:
            constant = new
            new = lambda batch: pa.array([constant.as_py()] * batch.num_rows, column.type)  # noqa: E731
        return table.update({column.name: new}, where.given)


def matches(rows: tuple[Row, ...], state: State) -> dict[Any, list[int]]:
    """By id: the row ids of the table's rows that have it."""
    found: dict[Any, list[int]] = {row[ID]: [] for row in rows}
    for row_id, row in state.rows.items():
        if row[ID] in found:
            found[row[ID]].append(row_id)
    return found


def name_of_id(state: State) -> str:
    column = state.column(ID)
    assert column is not None
    return column.name


@dataclass(frozen=True)
class Upsert(Operation):
    rows: Seeds
    narrow: int | None = None

    def _columns(self, state: State) -> tuple[Column, ...]:
        if self.narrow is None:
            return state.columns
        chosen = state.pick(self.narrow)
        return tuple(one for one in state.columns if one.number == ID or one == chosen or not one.nullable)

    def _source(self, state: State) -> tuple[Row, ...]:
        return rows_of(self.rows, state, self._columns(state))

    def plan(self, state: State) -> Effect:
        rows = self._source(state)
        if len({row[ID] for row in rows}) < len(rows):
            raise RefusedError(lake.DuplicateKeyError)
        found = matches(rows, state)
        return Effect(
            kind="upsert",
            sets={row_id: row for row in rows for row_id in found[row[ID]]},
            inserts=tuple(whole(row, state) for row in rows if not found[row[ID]]),
            keys=frozenset(row[ID] for row in rows),
            reads=frozenset({ID}),
            columns=frozenset(one.number for one in self._columns(state)),
            commits=ONCE_OR_NOT,
        )

    def run(self, table: lake.Table, state: State) -> Any:
        columns = self._columns(state)
        return table.upsert(as_arrow(self._source(state), columns), on=name_of_id(state))


@dataclass(frozen=True)
class Merge(Operation):
    """Matched rows with a small id go, others take what was handed in; those not handed in may get a value."""

    rows: Seeds
    least: int
    by_source: int | None = None

    def plan(self, state: State) -> Effect:
        rows = rows_of(self.rows, state)
        if len({row[ID] for row in rows}) < len(rows):
            raise RefusedError(lake.DuplicateKeyError)
        found = matches(rows, state)
        both = [(row_id, row) for row in rows for row_id in found[row[ID]]]
        sets: dict[int, Row] = {row_id: row for row_id, row in both if row[ID] >= self.least}
        column = self._left(state)
        if column is not None:
            others = [row_id for row_id, row in state.rows.items() if row[ID] not in found]
            sets |= {row_id: {column.number: column.value((3,))} for row_id in others}
        return Effect(
            kind="merge",
            deletes=frozenset(row_id for row_id, row in both if row[ID] < self.least),
            sets=sets,
            inserts=tuple(whole(row, state) for row in rows if not found[row[ID]]),
            keys=frozenset(row[ID] for row in rows),
            reads=frozenset({ID}),
            columns=frozenset(one.number for one in state.columns),
            commits=ONCE_OR_NOT,
        )

    def _left(self, state: State) -> Column | None:
        return None if self.by_source is None else state.pick(self.by_source, lambda one: not one.members)

    def run(self, table: lake.Table, state: State) -> Any:
        own = name_of_id(state)
        merge = table.merge(as_arrow(rows_of(self.rows, state), state.columns), on=own)
        merge.when_matched_delete(condition=f'"{own}" < {self.least}').when_matched_update()
        merge.when_not_matched_insert()
        column = self._left(state)
        if column is not None:
            new: Mapping[str, object] = {column.name: pa.scalar(column.show(column.value((3,))), column.type)}
            merge.when_not_matched_by_source_update(new)
        return merge.execute()


@dataclass(frozen=True)
class Overwrite(Operation):
    rows: Seeds
    where: Filter

    def plan(self, state: State) -> Effect:
        rows, where = rows_of(self.rows, state), self.where.bind(state)
        gone = where.chosen(state)
        refuse_taken(rows, state, gone)
        return Effect(
            kind="overwrite",
            deletes=gone,
            inserts=rows,
            keys=keys_of(rows, state),
            reads=where.reads,
            columns=frozenset(one.number for one in state.columns),
        )

    def run(self, table: lake.Table, state: State) -> Any:
        data = as_arrow(rows_of(self.rows, state), state.columns)
        return table.overwrite(data, self.where.bind(state).given)


OPERATIONS: list[st.SearchStrategy[Operation]] = [
    st.builds(Append, rows=ROWS, job=st.none() | st.none() | st.integers(0, 5)),
    st.builds(Append, rows=ROWS),
    st.builds(Delete, where=FILTERS),
    st.builds(
        Update, column=st.integers(0, 9), value=st.integers(-6, 9), where=FILTERS, computed=st.booleans()
    ),
    st.builds(Upsert, rows=ROWS, narrow=st.none() | st.integers(0, 9)),
    st.builds(Merge, rows=ROWS, least=st.integers(0, 30), by_source=st.none() | st.integers(0, 9)),
    st.builds(Overwrite, rows=ROWS, where=FILTERS),
]
