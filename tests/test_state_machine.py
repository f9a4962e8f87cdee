"""Random histories of a table against a model in plain Python (tests/machine): any operation, any order, any overlap.

``make fuzz`` runs the same machine for long.
"""

from __future__ import annotations

from uuid import uuid4

import pytest
from conftest import Location
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from machine.filters import Comparison, Filter
from machine.look import Look
from machine.operations import Append, Delete, Merge, Operation, Overwrite, Update, Upsert
from machine.schema_operations import (
    AddColumn,
    Backfill,
    DropColumn,
    MemberOperation,
    RenameColumn,
    WidenColumn,
)
from machine.table_machine import TableMachine
from machine.threads import check_history, run_threads
from machine.upkeep_operations import Collect, Compact, CreateIndex, Expire, MoveTag, Restore
from machine.world import World

from lake_format.store import forget_memory, open_store

SHORT = settings(
    max_examples=8,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)
LONG = settings(SHORT, max_examples=60, stateful_step_count=40)


def test_random_histories() -> None:
    """spec: COM-1, COM-3, COM-7, COM-9, MAN-6, SCH-5, DEL-3, TAB-9, TAB-10"""
    run_state_machine_as_test(TableMachine, settings=SHORT)


@pytest.mark.long
def test_many_random_histories() -> None:
    run_state_machine_as_test(TableMachine, settings=LONG)


def rows(*ids: int) -> tuple[tuple[int, ...], ...]:
    return tuple((i, i % 10 - 4, (i * 3) % 13 - 5, (i * 7) % 11 - 5, (i * 5) % 15 - 6) for i in ids)


def below(value: int) -> Filter:
    return Filter((Comparison(0, "less", value),))


HISTORY: list[tuple[int, Operation, tuple[int, Operation] | None]] = [
    (0, Append(rows(*range(8))), None),
    (1, Append(rows(8, 9)), (0, Append(rows(10), job=1))),
    (0, CreateIndex(0, "l2"), (1, Update(2, 4, below(3)))),
    (1, Update(0, 0, below(5), computed=True), (0, Delete(below(2)))),
    (0, Upsert(rows(1, 5, 20), narrow=1), (1, Compact(1000, 0.5))),
    (1, RenameColumn(1, "c"), (0, AddColumn("d", "int64", "computed"))),
    (0, MoveTag("t", 1, move=False), None),
    (1, Backfill(5, 3, below(9), parts=2, again=True), (0, Delete(below(4)))),
    (0, Merge(rows(5, 6, 30), least=6, by_source=0), None),
    (1, WidenColumn(0), (0, MemberOperation(4, 0, "rename", "e"))),
    (0, DropColumn(3), None),
    (1, Compact(1000, 0.01), (0, Overwrite(rows(40, 41), below(6)))),
    (0, Restore(5), None),
    (1, Expire(3), None),
    (0, Collect(), None),
    (1, Append(rows(50, 51)), None),
]


def test_one_history_on_every_kind_of_storage(table_uri: Location) -> None:
    """The same operations in a fixed order, on local disk, memory and S3. spec: COM-1, COM-6"""
    world = World(table_uri.store(), writers=2, keyed=True, properties={"write.fragment-rows": 3})
    for number, (writer, operation, rival) in enumerate(HISTORY):
        world.execute(writer, operation, rival)
        where = Filter(
            (Comparison(number, "less", 5), Comparison(number + 1, "null", 0, negated=True)),
            all_of=number % 2 == 0,
        )
        parts = frozenset({"everything" if number % 5 == 4 else "search"})
        world.look(Look(where, None, (0.1, 0.9), number, "l2", ((2, -1, 3),), 4, number // 2, parts))
        world.check_field_ids()
    assert world.newest > 20


IDS = st.integers(0, 12)
ROWS = st.lists(IDS, min_size=1, max_size=4, unique=True).map(lambda ids: rows(*ids))
CONCURRENT: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Append, st.integers(100, 10**6).map(lambda i: rows(i, i + 1))),
    st.builds(Upsert, ROWS, st.none() | st.integers(0, 4)),
    st.builds(Upsert, ROWS),
    st.builds(Merge, ROWS, IDS, st.none()),
    st.builds(Delete, IDS.map(below)),
    st.builds(Update, st.integers(0, 4), st.integers(0, 9), IDS.map(below), st.booleans()),
    st.builds(Compact, st.sampled_from([4, 1000]), st.sampled_from([0.01, 0.5])),
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(
    keyed=st.booleans(),
    plans=st.lists(st.lists(CONCURRENT, min_size=3, max_size=5), min_size=4, max_size=4),
)
def test_threads_that_write_at_once(keyed: bool, plans: list[list[Operation]]) -> None:
    """spec: COM-3, COM-9"""
    write_at_once(keyed, plans)


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(
    keyed=st.booleans(),
    plans=st.lists(st.lists(CONCURRENT, min_size=3, max_size=6), min_size=2, max_size=6),
)
def test_many_threads_that_write_at_once(keyed: bool, plans: list[list[Operation]]) -> None:
    write_at_once(keyed, plans)


def write_at_once(keyed: bool, plans: list[list[Operation]]) -> None:
    store = open_store(f"memory://threads-{uuid4().hex}")
    world = World(store, writers=1, keyed=keyed, properties={"write.fragment-rows": 4})
    world.execute(0, Append(rows(*range(8))))
    check_history(world, run_threads(world, plans))
    forget_memory(store.uri)
