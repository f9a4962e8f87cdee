"""Operations that change columns, of the table and of its structs, and give them values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pyarrow as pa
from hypothesis import strategies as st

import lake_format as lake
from lake_format.errors import InvalidInputError

from .filters import TEXT_FILTERS, Filter
from .operations import Operation, name_of_id
from .state import ID, TYPES, WIDER, Column, Effect, RefusedError, Row, State

COLUMN_NAMES = ("c", "d", "e", "f g")
LEAVES = ("int8", "int64", "float32", "string", "vector3")


@dataclass(frozen=True)
class SchemaOperation(Operation):
    refreshes: ClassVar[bool] = False


def claim(name: str, parent: int | None = None) -> str:
    return f"column:{parent}:{name}"


@dataclass(frozen=True)
class AddColumn(SchemaOperation):
    """Of NULLs, of a constant, or computed from the id."""

    name: str
    kind: str
    values: str = "null"
    nullable: bool = True

    def plan(self, state: State) -> Effect:
        required = not self.nullable and self.values != "null"
        column = Column(self.name, self.kind, nullable=not required)
        if state.named(self.name) is not None:
            raise RefusedError(InvalidInputError)
        if self.values != "null" and not self._computed and not self.kind.startswith("vector"):
            return self._declared(replace(column, default=column.value((7,))))
        given = {} if self.values == "null" else state.rows
        sets = {row_id: {column.number: self._new(column, row)} for row_id, row in given.items()}
        return Effect(
            kind="add_column",
            edit=lambda now: replace(now, columns=(*now.columns, column)),
            sets=sets,
            reads=frozenset({ID}) if self._computed else frozenset(),
            columns=frozenset({column.number}),
            claims=frozenset({claim(self.name)}),
            required=required,
        )

    def _declared(self, column: Column) -> Effect:
        """All rows have the constant that are there when it lands, and those of writers who know nothing of it."""

        def edit(now: State) -> State:
            rows = {row_id: {**row, column.number: column.default} for row_id, row in now.rows.items()}
            return replace(now, columns=(*now.columns, column), rows=rows)

        claims = frozenset({claim(self.name)})
        return Effect(kind="add_column", edit=edit, columns=frozenset({column.number}), claims=claims)

    @property
    def _computed(self) -> bool:
        return self.values == "computed" and self.kind in ("int64", "float32")

    def _new(self, column: Column, row: Row) -> Any:
        return row[ID] * 2 if self._computed else column.value((7,))

    def run(self, table: lake.Table, state: State) -> Any:
        column = Column(self.name, self.kind)
        new: Any = None if self.values == "null" else pa.scalar(column.show(column.value((7,))), column.type)
        if self._computed:
            new = lake.sql(f'"{name_of_id(state)}" * 2')
        return table.add_column(self.name, column.type, new, nullable=self.nullable or self.values == "null")


@dataclass(frozen=True)
class DropColumn(SchemaOperation):
    column: int

    def plan(self, state: State) -> Effect | None:
        column = state.pick(self.column)
        if column is None:
            return None

        def edit(now: State) -> State:
            columns = tuple(one for one in now.columns if one.number != column.number)
            indexes = {name: own for name, own in now.indexes.items() if own[0] != column.number}
            return replace(now, columns=columns, indexes=indexes)

        inside = {column.number, *(one.number for one in column.members)}
        return Effect(kind="drop_column", edit=edit, columns=frozenset(inside))

    def run(self, table: lake.Table, state: State) -> Any:
        column = state.pick(self.column)
        assert column is not None
        return table.drop_column((column.name,))


@dataclass(frozen=True)
class RenameColumn(SchemaOperation):
    column: int
    name: str

    def plan(self, state: State) -> Effect | None:
        column = state.pick(self.column)
        if column is None:
            return None
        other = state.named(self.name)
        if other is not None and other != column:
            raise RefusedError(InvalidInputError)

        def edit(now: State) -> State:
            own = now.column(column.number)
            return now if own is None else now.with_column(replace(own, name=self.name))

        numbers, claims = frozenset({column.number}), frozenset({claim(self.name)})
        return Effect(kind="rename_column", edit=edit, columns=numbers, claims=claims)

    def run(self, table: lake.Table, state: State) -> Any:
        column = state.pick(self.column)
        assert column is not None
        return table.rename_column((column.name,), self.name)


@dataclass(frozen=True)
class ReorderColumns(SchemaOperation):
    """One column comes first."""

    column: int

    def plan(self, state: State) -> Effect | None:
        column = state.pick(self.column)
        if column is None:
            return None

        def edit(now: State) -> State:
            return replace(
                now, columns=tuple(sorted(now.columns, key=lambda one: one.number != column.number))
            )

        return Effect(kind="alter_column", edit=edit)

    def run(self, table: lake.Table, state: State) -> Any:
        column = state.pick(self.column)
        assert column is not None
        return table.reorder_columns([column.name])


@dataclass(frozen=True)
class WidenColumn(SchemaOperation):
    column: int

    def _column(self, state: State) -> Column | None:
        return state.pick(self.column, lambda one: one.kind in WIDER)

    def plan(self, state: State) -> Effect | None:
        column = self._column(state)
        if column is None:
            return None
        wider = WIDER[column.kind]

        def edit(now: State) -> State:
            own = now.column(column.number)
            return now if own is None else now.with_column(replace(own, kind=wider))

        return Effect(kind="alter_column", edit=edit, columns=frozenset({column.number}))

    def run(self, table: lake.Table, state: State) -> Any:
        column = self._column(state)
        assert column is not None
        return table.widen_column((column.name,), TYPES[WIDER[column.kind]])


@dataclass(frozen=True)
class AllowNull(SchemaOperation):
    """Allow NULL in a column or forbid it."""

    column: int
    nullable: bool

    def plan(self, state: State) -> Effect | None:
        column = state.pick(self.column)
        if column is None:
            return None
        if not self.nullable and any(row.get(column.number) is None for row in state.rows.values()):
            raise RefusedError(InvalidInputError)

        def edit(now: State) -> State:
            own = now.column(column.number)
            return now if own is None else now.with_column(replace(own, nullable=self.nullable))

        numbers = frozenset({column.number})
        return Effect(kind="alter_column", edit=edit, columns=numbers, required=not self.nullable)

    def run(self, table: lake.Table, state: State) -> Any:
        column = state.pick(self.column)
        assert column is not None
        return table.alter_column((column.name,), nullable=self.nullable)


@dataclass(frozen=True)
class MemberOperation(SchemaOperation):
    """Add, rename, widen or drop a member of a struct."""

    column: int
    member: int
    what: str
    name: str

    def _found(self, state: State) -> tuple[Column, Column] | None:
        outer = state.pick(self.column, lambda one: bool(one.members))
        return None if outer is None else (outer, outer.members[self.member % len(outer.members)])

    def plan(self, state: State) -> Effect | None:
        found = self._found(state)
        if found is None:
            return None
        outer, member = found
        taken = any(one.name == self.name and one != member for one in outer.members)
        add = Column(self.name, "string")
        if self.what == "add" and (taken or member.name == self.name):
            raise RefusedError(InvalidInputError)
        if (self.what == "rename" and taken) or (self.what == "drop" and len(outer.members) == 1):
            raise RefusedError(InvalidInputError)
        if self.what == "widen" and member.kind not in WIDER:
            return None
        kinds = {
            "add": "add_column",
            "drop": "drop_column",
            "rename": "rename_column",
            "widen": "alter_column",
        }
        names = {"add", "rename"}
        return Effect(
            kind=kinds[self.what],
            edit=lambda now: self._edited(now, outer.number, member, add),
            columns=frozenset({member.number}),
            reads=frozenset({outer.number}),
            claims=frozenset({claim(self.name, outer.number)} if self.what in names else ()),
        )

    def _edited(self, now: State, outer: int, member: Column, add: Column) -> State:
        """The state with the member changed; a wider type is the one asked for, whatever it has become since."""
        own = now.column(outer)
        if own is None:
            return now
        members = own.members
        if self.what == "add":
            members = (*members, add)
        elif self.what == "drop":
            members = tuple(one for one in members if one.number != member.number)
        else:
            changed = [
                replace(one, name=self.name)
                if self.what == "rename"
                else replace(one, kind=WIDER[member.kind])
                for one in members
                if one.number == member.number
            ]
            members = tuple(changed[0] if one.number == member.number else one for one in members)
        return now.with_column(replace(own, members=members))

    def run(self, table: lake.Table, state: State) -> Any:
        found = self._found(state)
        assert found is not None
        outer, member = found
        path = (outer.name, member.name)
        match self.what:
            case "add":
                return table.add_column((outer.name, self.name), pa.string())
            case "drop":
                return table.drop_column(path)
            case "rename":
                return table.rename_column(path, self.name)
        return table.widen_column(path, TYPES[WIDER[member.kind]])


@dataclass(frozen=True)
class Backfill(SchemaOperation):
    """Values for the rows that match, at once or as a job in parts; the parts may be run twice."""

    column: int
    value: int
    where: Filter
    parts: int | None = None
    again: bool = False

    def _column(self, state: State) -> Column | None:
        return state.pick(self.column, lambda one: not one.members)

    def plan(self, state: State) -> Effect | None:
        column = self._column(state)
        if column is None:
            return None
        where = self.where.bind(state)
        new = column.value((self.value,))
        sets = {row_id: {column.number: new} for row_id in where.chosen(state)}
        numbers = frozenset({column.number})
        return Effect(
            kind="backfill", sets=sets, reads=where.reads, columns=numbers, commits=frozenset({0, 1})
        )

    def run(self, table: lake.Table, state: State) -> Any:
        column = self._column(state)
        assert column is not None
        new = pa.scalar(column.show(column.value((self.value,))), column.type)
        where = self.where.bind(state).text
        if self.parts is None:
            return table.backfill(column.name, new, where)
        plan = table.plan_backfill(column.name, new, where, parts=self.parts)
        results = [table.run_backfill(part, new) for part in plan.parts]
        if self.again:
            results += [table.run_backfill(part, new) for part in plan.parts[:1]]
        return table.commit_backfill(plan, results, values=new)


_NAMES = st.sampled_from(COLUMN_NAMES)
_PICK = st.integers(0, 9)
OPERATIONS: list[st.SearchStrategy[Operation]] = [
    st.builds(
        AddColumn,
        name=_NAMES,
        kind=st.sampled_from(LEAVES),
        values=st.sampled_from(["null", "constant", "computed"]),
        nullable=st.booleans(),
    ),
    st.builds(DropColumn, column=_PICK),
    st.builds(RenameColumn, column=_PICK, name=_NAMES),
    st.builds(ReorderColumns, column=_PICK),
    st.builds(WidenColumn, column=_PICK),
    st.builds(AllowNull, column=_PICK, nullable=st.booleans()),
    st.builds(
        MemberOperation,
        column=_PICK,
        member=_PICK,
        what=st.sampled_from(["add", "drop", "rename", "widen"]),
        name=_NAMES,
    ),
    st.builds(
        Backfill,
        column=_PICK,
        value=st.integers(-6, 9),
        where=TEXT_FILTERS,
        parts=st.none() | st.integers(1, 3),
        again=st.booleans(),
    ),
]
