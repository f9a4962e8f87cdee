"""What must become of an operation that was overtaken, by the conflict matrix and by what both operations mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machine.filters import Filter
from machine.look import Look, check_schema, check_search, rows_by_id
from machine.state import ImpossibleError, RefusedError, State

from lake_format.conflicts import Action
from lake_format.errors import ConflictError, InvalidInputError
from lake_format.table import Table

from .meeting import Outcome, Pair, after, all_files, meet, solo
from .table import COLUMNS, V, base

SELECTED_BEFORE = frozenset({"delete", "update", "backfill", "add_column"})
"""Under snapshot isolation these touch no row that was not selected where they were planned (CON-7)."""
FILES = {"compact", "cluster"}
"""Upkeep that looks after the key index too, in a commit of its own."""
VECTORS = {"create_index", "drop_index", "optimize_index", "restore", *FILES}


def check(pair: Pair) -> None:
    """Let the two meet, and judge."""
    with meet(pair) as outcome:
        assert outcome.decisions, f"{pair}: nobody was asked whether they go together"
        assert outcome.decisions[0].action is pair.action, f"{pair}: {outcome.decisions[0]}"
        match pair.action:
            case Action.CONFLICT:
                check_conflict(pair, outcome)
            case Action.YIELD:
                assert outcome.error is None, f"{pair}: {outcome.error!r}"
                check_nothing_landed(pair, outcome)
            case Action.REPLAN:
                check_planned_again(pair, outcome)
            case _:
                check_as_planned(pair, outcome)


def check_conflict(pair: Pair, outcome: Outcome) -> None:
    """A typed error that names both."""
    assert isinstance(outcome.error, ConflictError), f"{pair}: {outcome.error!r}"
    assert f"{pair.mine.kind} meets {pair.theirs.kind}" in str(outcome.error)
    check_nothing_landed(pair, outcome)


def check_nothing_landed(pair: Pair, outcome: Outcome) -> None:
    """The table is what the first one made of it, to the last file."""
    first = solo(pair.theirs, pair.kind)
    assert outcome.table.version == first.state.number, f"{pair}: a version landed"
    assert outcome.files == all_files(first.folder), f"{pair}: files were left behind"


def check_as_planned(pair: Pair, outcome: Outcome) -> None:
    """The effect that was planned, on what the first one made; which is what one after the other makes."""
    assert outcome.error is None, f"{pair}: {outcome.error!r}"
    start, first = base(pair.kind).state, solo(pair.theirs, pair.kind).state
    planned = after(pair.mine.plan(start), first)
    assert any(planned.shown() == one.shown() for one in one_after_the_other(pair)), (
        f"{pair}: the matrix lets through what is not what one after the other makes"
    )
    check_table(pair, outcome.table, planned)


def check_planned_again(pair: Pair, outcome: Outcome) -> None:
    """What the operation makes of the newest version; or an error where it may not be there."""
    expected, allowed = list[State](), tuple[type[Exception], ...]()
    try:
        expected = one_after_the_other(pair)
    except RefusedError as refused:
        allowed = (ConflictError, *refused.errors)
    except ImpossibleError:
        allowed = (ConflictError, InvalidInputError)
    if not pair.mine.redone:
        allowed += (ConflictError,)
    if outcome.error is not None:
        assert isinstance(outcome.error, allowed), f"{pair}: {outcome.error!r}"
        check_nothing_landed(pair, outcome)
        return
    assert expected, f"{pair}: landed"
    found = rows_read(outcome.table, expected[0])
    check_table(pair, outcome.table, next((one for one in expected if one.shown() == found), expected[0]))


def one_after_the_other(pair: Pair) -> list[State]:
    """What may be there in the end: of columns that came first, new rows have the default, or NULL."""
    start, first = base(pair.kind).state, solo(pair.theirs, pair.kind).state
    again = pair.mine.plan(replace(first, asked_at=start.number))
    if pair.action is not Action.REPLAN and not pair.kind.serializable and pair.mine.kind in SELECTED_BEFORE:
        planned = pair.mine.plan(start)
        again = replace(
            again,
            deletes=again.deletes & planned.deletes,
            sets={one: row for one, row in again.sets.items() if one in planned.sets},
        )
    known = {one.number for one in COLUMNS}
    unaware = tuple({one: value for one, value in row.items() if one in known} for row in again.inserts)
    return [after(one, first) for one in (again, replace(again, inserts=unaware))]


_READ: dict[tuple[object, ...], dict[int, dict[str, Any]]] = {}


def rows_read(table: Table, state: State) -> dict[int, dict[str, Any]]:
    """All rows by row id, read once for each list of fragments: files of a name never change."""
    version = table.snapshot.version
    place = (version.table_id, version.manifests, version.schema.serialize().to_pybytes())
    if place not in _READ:
        _READ[place] = rows_by_id(table, state)
    return _READ[place]


def check_table(pair: Pair, table: Table, state: State) -> None:
    """Rows, schema, names and, where vectors or their indexes changed, searches."""
    landed = {one["operation"] for one in table.versions() if one["version"] > state.number}
    assert table.version >= state.number, f"{pair}: nothing landed"
    assert landed <= ({"optimize_index"} if pair.mine.kind in FILES else set()), f"{pair}: {landed} too"
    check_schema(table, state)
    found, shown = rows_read(table, state), state.shown()
    wrong = [one for one in found.keys() | shown.keys() if found.get(one) != shown.get(one)]
    assert not wrong, f"{pair}: row {wrong[0]} is {found.get(wrong[0])}, not {shown.get(wrong[0])}"
    version, key = table.snapshot.version, None if state.key is None else state.column(state.key)
    properties = {one: version.properties.get(one) for one in state.properties}
    told = (
        {one.name for one in version.indexes},
        table.tags(),
        max(version.horizon, 1),
        properties,
        table.key,
    )
    wanted = (
        set(state.indexes),
        dict(state.tags),
        state.horizon,
        state.properties,
        [key.name] if key else [],
    )
    assert told == wanted, f"{pair}: {told}, not {wanted}"
    if any(_about_vectors(pair, one) for one in (0, 1)):
        check_searches(table, state)


def _about_vectors(pair: Pair, which: int) -> bool:
    record = pair.records[which]
    return record.kind in VECTORS or base(pair.kind).field_ids[V] in record.fields_written


def check_searches(table: Table, state: State) -> None:
    column = state.column(V)
    for _, metric in state.indexes.values():
        assert column is not None
        asked = Look(Filter(()), None, (), 0, metric, ((4, 1, -2),), 20, 0, frozenset())
        check_search(table, state, asked, column)
