"""Samples that change rows: append, delete, update, upsert, merge, overwrite, backfill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from machine.operations import refuse_taken, whole
from machine.state import Effect, RefusedError, Row, State

import lake_format as lake
from lake_format.errors import InvalidInputError
from lake_format.expressions import sql

from .sample import ANY_TABLE, Sample, Test, chosen, every, having
from .table import COLUMNS, COMPUTED, ID, NAME, PRICE, S_A, S_B, N, S, V, arrow, row

Value = Any
VECTOR = (5.0, 5.0, 5.0)
NUMBERS = {one.name: one.number for one in COLUMNS}


def append(*rows: Row) -> Sample:
    def plan(state: State) -> Effect:
        refuse_taken(rows, state)
        return Effect(kind="append", inserts=rows)

    title = ", ".join(str(one[ID]) for one in rows)
    return Sample(
        "append", title, lambda table: table.append(arrow(*rows)), plan, keyed=ANY_TABLE, redone=False
    )


def delete(where: str, test: Test, **more: Any) -> Sample:
    def plan(state: State) -> Effect:
        return Effect(kind="delete", deletes=frozenset(chosen(state, test)))

    return Sample("delete", where, lambda table: table.delete(where), plan, **more)


def _set(kind: str, values: Mapping[int, Value], test: Test, state: State) -> Effect:
    """Constants, or functions of a row."""
    sets = {}
    for row_id in chosen(state, test):
        own = state.rows[row_id]
        sets[row_id] = {number: new(own) if callable(new) else new for number, new in values.items()}
    return Effect(kind=kind, sets=sets)


def update(
    given: Mapping[str, object], where: str, values: Mapping[int, Value], test: Test, how: str, **more: Any
) -> Sample:
    return Sample(
        "update",
        f"{', '.join(given)} where {where}, {how}",
        lambda table: table.update(given, where),
        partial(_set, "update", values, test),
        strategy=how,
        **more,
    )


def backfill(column: str, given: object, where: str | None, new: Value, test: Test, **more: Any) -> Sample:
    inputs = more.pop("inputs", None)

    def plan(state: State) -> Effect:
        if column == "n" and state.column(COMPUTED) is not None:  # update() would compute the other one too
            raise RefusedError(InvalidInputError)
        return _set("backfill", {NUMBERS[column]: new}, test, state)

    return Sample(
        "backfill",
        f"{column} where {where}{'' if inputs is None else ', from ' + ', '.join(inputs)}",
        lambda table: table.backfill(column, given, where, inputs=inputs),
        plan,
        **more,
    )


def _joined(rows: tuple[Row, ...], on: int, state: State) -> tuple[dict[int, Row], tuple[Row, ...]]:
    """Values for the rows that are there; the rows that are not."""
    found: dict[int, Row] = {}
    there = set()
    for row_id, own in state.rows.items():
        for new in rows:
            if own[on] == new[on]:
                found[row_id] = new
                there.add(new[on])
    fresh = tuple(whole(new, state) for new in rows if new[on] not in there)
    refuse_taken(fresh, state)
    if state.key not in (None, on) and (fresh or any(state.key in new for new in found.values())):
        raise RefusedError(lake.UnsupportedError)  # others' key: joined on anything else it could be broken
    return found, fresh


def upsert(*rows: Row, on: int = ID, how: str = "move", **more: Any) -> Sample:
    columns = tuple(rows[0])

    def plan(state: State) -> Effect:
        found, fresh = _joined(rows, on, state)
        return Effect(kind="upsert", sets=found, inserts=fresh)

    names = [one.name for one in COLUMNS if one.number in columns]
    source = arrow(*rows, columns=columns)
    joined = COLUMNS[on].name
    return Sample(
        "upsert",
        f"{'all' if len(names) == len(COLUMNS) else ', '.join(names)} of {joined} "
        f"{', '.join(str(one[on]) for one in rows)}, {how}",
        lambda table: table.upsert(source, on=joined),
        plan,
        strategy=how,
        **more,
    )


def merge(
    title: str,
    rows: tuple[Row, ...],
    build: Callable[[Any], Any],
    *,
    on: int = ID,
    matched_gone: bool = False,
    inserts: bool = False,
    others: tuple[Test, Row | None] | None = None,
    **more: Any,
) -> Sample:
    """``others``: which rows that were not handed in go (None), or get values."""

    def plan(state: State) -> Effect:
        found, fresh = _joined(rows, on, state)
        left = [row_id for row_id in state.rows if row_id not in found]
        gone, sets = (set(found), {}) if matched_gone else (set(), dict(found))
        if others is not None:
            test, values = others
            hit = [row_id for row_id in left if test(state.rows[row_id])]
            if values is None:
                gone |= set(hit)
            else:
                sets |= dict.fromkeys(hit, values)
        return Effect(kind="merge", deletes=frozenset(gone), sets=sets, inserts=fresh if inserts else ())

    source = arrow(*rows, columns=tuple(rows[0]))
    return Sample(
        "merge", title, lambda table: build(table.merge(source, on=COLUMNS[on].name)).execute(), plan, **more
    )


def overwrite(where: str | None, test: Test, *rows: Row) -> Sample:
    def plan(state: State) -> Effect:
        gone = frozenset(chosen(state, test))
        refuse_taken(rows, state, gone)
        return Effect(kind="overwrite", deletes=gone, inserts=rows)

    title = f"{where} by {', '.join(str(one[ID]) for one in rows) or 'nothing'}"
    return Sample(
        "overwrite", title, lambda table: table.overwrite(arrow(*rows), where), plan, keyed=ANY_TABLE
    )


def _narrow(number: int, *wanted: int, **changes: Any) -> Row:
    whole_row = row(number, **changes)
    return {one: whole_row[one] for one in wanted}


def _plus(column: int, amount: float) -> Callable[[Row], Value]:
    return lambda own: own[column] + amount


def _add_one(batch: pa.RecordBatch) -> Any:
    return pc.add(batch["n"], pa.scalar(1, pa.int32()))


APPENDS = (append(row(20)), append(row(21), row(22)))
DELETES = (
    delete("id = 1", having(ID, 1), keyed=ANY_TABLE),
    delete("price = 1.5", having(PRICE, 1.5)),
    delete("name IS NULL", having(NAME, None)),
    delete("id IN (6, 7)", having(ID, 6, 7)),
    delete("id = 8", having(ID, 8)),
)
UPDATES = (
    update({"price": 9.0}, "id = 1", {PRICE: 9.0}, having(ID, 1), "patch"),
    update({"price": sql("price + 1")}, "id = 1", {PRICE: _plus(PRICE, 1)}, having(ID, 1), "rewrite"),
    update({"name": "x"}, "price = 0.25", {NAME: "x"}, having(PRICE, 0.25), "move", keyed=ANY_TABLE),
    update({"name": "z"}, "id = 1", {NAME: "z"}, having(ID, 1), "rewrite"),
    update({"name": sql("s.b")}, "id = 1", {NAME: lambda own: own[S][S_B]}, having(ID, 1), "patch"),
    update({"v": list(VECTOR)}, "id = 1", {V: VECTOR}, having(ID, 1), "patch"),
    update({"id": 20}, "id = 1", {ID: 20}, having(ID, 1), "move", keyed=ANY_TABLE),
    update({"n": 50}, "id IN (6, 7)", {N: 50}, having(ID, 6, 7), "move"),
    update({"price": 7.0}, "id = 6", {PRICE: 7.0}, having(ID, 6), "patch"),
    update({"name": "y"}, "id = 8", {NAME: "y"}, having(ID, 8), "patch"),
)
UPSERTS = (
    upsert(row(1, name="up"), row(20), keyed=ANY_TABLE),
    upsert(_narrow(2, ID, PRICE, price=5.0), how="patch"),
    upsert(_narrow(1, ID, V, v=VECTOR), how="rewrite"),
    upsert(_narrow(6, ID, PRICE, price=5.0), keyed=ANY_TABLE),
    upsert(_narrow(6, ID, N, n=51), _narrow(7, ID, N, n=52)),
    upsert(_narrow(8, ID, N, n=53)),
    upsert(row(21)),
    upsert(_narrow(1, NAME, PRICE, price=4.0), on=NAME, how="patch", keyed=(False,)),
    upsert(_narrow(1, ID, NAME, id=40), on=NAME, keyed=(False,)),
)
MERGES = (
    merge(
        "update 1, insert 20",
        (row(1, name="merged"), row(20)),
        lambda one: one.when_matched_update().when_not_matched_insert(),
        inserts=True,
        keyed=ANY_TABLE,
    ),
    merge("delete 2", (row(2),), lambda one: one.when_matched_delete(), matched_gone=True),
    merge("delete 6", (row(6),), lambda one: one.when_matched_delete(), matched_gone=True),
    merge("delete 8", (row(8),), lambda one: one.when_matched_delete(), matched_gone=True),
    merge(
        "update 2",
        (_narrow(2, ID, PRICE, price=5.0),),
        lambda one: one.when_matched_update(condition="s.b = 'b'"),
        strategy="patch",
    ),
    merge(
        "insert 24, update the other 1",
        (row(24),),
        lambda one: one.when_not_matched_insert().when_not_matched_by_source_update(
            {"n": 5}, condition="id = 1"
        ),
        inserts=True,
        others=(having(ID, 1), {N: 5}),
        strategy="rewrite",
    ),
    merge(
        "update 6, delete others from 8 on",
        (_narrow(6, ID, PRICE, price=5.0),),
        lambda one: one.when_matched_update().when_not_matched_by_source_delete(condition="id >= 8"),
        others=(lambda own: own[ID] >= 8, None),
        strategy="rewrite",
    ),
    merge(
        "by name, update 1",
        ({NAME: "name 1", PRICE: 4.0},),
        lambda one: one.when_matched_update(),
        on=NAME,
        strategy="move",
        keyed=(False,),
    ),
)
OVERWRITES = (
    overwrite("id = 1", having(ID, 1), row(1, name="over")),
    overwrite("price = 1.5", having(PRICE, 1.5), row(20)),
    overwrite("id IN (6, 7)", having(ID, 6, 7), row(23)),
    overwrite("id IN (6, 7)", having(ID, 6, 7)),
    overwrite("name = 'name 8'", having(NAME, "name 8"), row(8, name="over")),
)
BACKFILLS = (
    backfill("name", "filled", "name IS NULL", "filled", having(NAME, None)),
    backfill("price", sql("n"), None, lambda own: float(own[N]), every),
    backfill("price", sql("id"), "id < 6", lambda own: float(own[ID]), lambda own: own[ID] < 6),
    backfill("price", sql("s.a"), "id = 1", lambda own: float(own[S][S_A]), having(ID, 1)),
    backfill("v", lake.sql("v"), "id = 1", lambda own: own[V], having(ID, 1)),
    backfill("n", _add_one, "id = 6", _plus(N, 1), having(ID, 6), inputs=["n"]),
    backfill("id", sql("id + 40"), "id = 1", 41, having(ID, 1), keyed=(False,)),
)
ROW_OPERATIONS = (*APPENDS, *DELETES, *UPDATES, *UPSERTS, *MERGES, *OVERWRITES, *BACKFILLS)
