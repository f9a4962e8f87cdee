"""Samples that change columns: add, drop, rename, alter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
from machine.state import Column, Effect, RefusedError, Row, State

from lake_format.errors import InvalidInputError
from lake_format.expressions import sql

from .sample import ANY_TABLE, Sample
from .table import COLUMNS, COMPUTED, ID, N, S

BY_NAME = {one.name: one for one in COLUMNS}


def _added(column: Column, sets: dict[int, Row], edit: Callable[[State], State] | None = None) -> Effect:
    return Effect(
        kind="add_column",
        edit=edit or (lambda now: replace(now, columns=(*now.columns, column))),
        sets=sets,
    )


def _require_new(state: State, name: str) -> None:
    if state.named(name) is not None:
        raise RefusedError(InvalidInputError)


def add_null(name: str) -> Sample:
    column = Column(name, "int64", number=50)

    def plan(state: State) -> Effect:
        _require_new(state, name)
        return _added(column, {})

    return Sample(
        "add_column", f"{name}, NULL", lambda table: table.add_column(name, pa.int64()), plan, keyed=ANY_TABLE
    )


def add_constant(name: str) -> Sample:
    column = Column(name, "int64", number=51, default=7)

    def edit(now: State) -> State:
        rows = {row_id: {**row, 51: 7} for row_id, row in now.rows.items()}
        return replace(now, columns=(*now.columns, column), rows=rows)

    def plan(state: State) -> Effect:
        _require_new(state, name)
        return _added(column, {}, edit)

    value = pa.scalar(7, pa.int64())
    return Sample("add_column", f"{name}, 7", lambda table: table.add_column(name, pa.int64(), value), plan)


def add_values(name: str, source: int, *, nullable: bool = True, computed: bool = False) -> Sample:
    """A new column with twice the values of another one; ``computed``: in rows to come as well."""
    column = Column(name, "int64", nullable, number=COMPUTED if computed else 60 + source)

    def plan(state: State) -> Effect:
        _require_new(state, name)
        return _added(column, {i: {column.number: int(row[source] * 2)} for i, row in state.rows.items()})

    given = sql(f"{COLUMNS[source].name} * 2")
    return Sample(
        "add_column",
        f"{name}, {'computed' if computed else 'values'} from {COLUMNS[source].name}"
        f"{'' if nullable else ', NOT NULL'}",
        lambda table: table.add_column(name, pa.int64(), given, nullable=nullable, computed=computed),
        plan,
    )


def add_member(name: str, values: bool, number: int) -> Sample:
    """A new member of the struct, of NULLs or with values; the struct is written whole then."""
    member = Column(name, "int64", number=number)

    def edit(now: State) -> State:
        own = now.column(S)
        return now if own is None else now.with_column(replace(own, members=(*own.members, member)))

    def plan(state: State) -> Effect:
        sets = {i: {S: {**row[S], number: int(row[ID])}} for i, row in state.rows.items()} if values else {}
        return _added(member, sets, edit)

    given = sql("id") if values else None
    title = f"s.{name}, {'values' if values else 'NULL'}"
    return Sample("add_column", title, lambda table: table.add_column(("s", name), pa.int64(), given), plan)


def drop(name: str, **more: Any) -> Sample:
    number = BY_NAME[name].number

    def edit(now: State) -> State:
        columns = tuple(one for one in now.columns if one.number != number)
        indexes = {title: own for title, own in now.indexes.items() if own[0] != number}
        return replace(now, columns=columns, indexes=indexes)

    return Sample(
        "drop_column",
        name,
        lambda table: table.drop_column(name),
        lambda _: Effect(kind="drop_column", edit=edit),
        **more,
    )


def _changed(kind: str, name: str, change: Callable[[Column], Column]) -> Callable[[State], Effect]:
    def edit(now: State) -> State:
        own = now.column(BY_NAME[name].number)
        return now if own is None else now.with_column(change(own))

    return lambda _: Effect(kind=kind, edit=edit)


def rename(name: str, to: str) -> Sample:
    plan = _changed("rename_column", name, lambda one: replace(one, name=to))
    return Sample("rename_column", f"{name} to {to}", lambda table: table.rename_column(name, to), plan)


def forbid_null(name: str) -> Sample:
    number = BY_NAME[name].number
    change = _changed("alter_column", name, lambda one: replace(one, nullable=False))

    def plan(state: State) -> Effect:
        if any(row[number] is None for row in state.rows.values()):
            raise RefusedError(InvalidInputError)
        return change(state)

    return Sample(
        "alter_column", f"{name} NOT NULL", lambda table: table.alter_column(name, nullable=False), plan
    )


def widen(name: str, to: pa.DataType, kind: str) -> Sample:
    plan = _changed("alter_column", name, lambda one: replace(one, kind=kind))
    return Sample(
        "alter_column", f"{name} to {kind}", lambda table: table.widen_column(name, to), plan, keyed=ANY_TABLE
    )


def comment(name: str) -> Sample:
    return Sample(
        "alter_column",
        f"comment on {name}",
        lambda table: table.alter_column(name, comment="a comment"),
        lambda _: Effect(kind="alter_column"),
    )


ADDITIONS = (
    add_null("x"),
    add_constant("x"),
    add_values("y", ID),
    add_values("z", N, nullable=False),
    add_values("q", N, computed=True),
    add_member("c", values=True, number=71),
    add_member("d", values=False, number=70),
    add_member("e", values=True, number=72),
)
DROPS = (*map(drop, ("n", "name", "price", "v", "s")), drop("id", keyed=(False,)))
RENAMES = (
    rename("price", "x"),
    rename("price", "cost"),
    rename("n", "x"),
    rename("name", "title"),
    rename("id", "y"),
)
ALTERATIONS = (
    forbid_null("n"),
    forbid_null("price"),
    widen("n", pa.int64(), "int64"),
    comment("v"),
    comment("name"),
)
COLUMN_OPERATIONS = (*ADDITIONS, *DROPS, *RENAMES, *ALTERATIONS)
