"""Merging while storage fails and others write: all or nothing, nothing lost, nothing missing after collection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from merging_samples import SCHEMA, content, pair, rows, store
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_commit_faults import CRASHES, FAILURES, at, fresh, objects_of

import lake_format as lake
from lake_format.errors import ConflictError, LakeError, NotFoundError
from lake_format.store import Store

__all__ = ["pair", "store"]  # fixtures

NOW = timedelta(0)


# --- others at the same time, and faults --------------------------------------------------------------------


def prepared(**how: Any) -> dict[str, bytes]:
    """Two lines of which a merge has to write values anew."""
    store = fresh({})
    main = lake.create(schema=SCHEMA, **at(store)).append(rows(0, 10))
    outer = main.create_branch("outer") if how.get("nested") else main
    branch = outer.create_branch("b")
    branch.append(rows(200, 2))
    branch.update({"a": 1}, where="id in (4, 5)")
    branch.delete("id = 6")
    outer.update({"b": 2}, where="id in (4, 5)")
    outer.append(rows(100))
    return objects_of(store)


MERGED = {**{one: one for one in range(10) if one != 6}, 4: 1, 5: 1, 100: 100, 200: 200, 201: 201}
BEFORE = {**{one: one for one in range(10)}, 100: 100}


STRIDES = [20, pytest.param(1, marks=pytest.mark.long)]
"""Every twentieth call in a normal run, every call in a long one."""


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(
    ("fault", "nested"),
    [
        *((fault, False) for fault in (*CRASHES, *FAILURES)),
        (Fault.CRASH_AFTER, True),
        (Fault.LOSE_RESPONSE, True),
    ],
)
def test_a_merge_fails_whole(fault: Fault, nested: bool, stride: int) -> None:
    """After a fault at any call all is there or nothing is, and it can be merged again. spec: BRA-14, COM-4"""
    objects = prepared(nested=nested)
    line = "outer" if nested else None

    def merge(store: Store) -> object:
        return lake.open(branch=line, **at(store)).merge_branch("b")

    start = [*CRASHES, *FAILURES].index(fault) * 3 % stride
    for place in range(start, count_calls(merge, fresh(objects)), stride):
        store = fresh(objects)
        acknowledged = True
        try:
            merge(FaultyStore(store, {place: fault}))
        except (SimulatedCrash, LakeError):
            acknowledged = False
        found = content(lake.open(branch=line, **at(store)))
        assert found == MERGED or (found == BEFORE and not acknowledged)
        merge(store)
        table = lake.open(branch=line, **at(store))
        assert content(table) == MERGED
        assert (
            all(not entry.pins for entry in lake.open(**at(store)).snapshot.version.branches.values())
            or place
        )


MEANWHILE: list[Callable[[Store, str | None], object]] = [
    lambda store, line: lake.open(branch=line, **at(store)).append(rows(300)),
    lambda store, line: lake.open(branch=line, **at(store)).update({"a": 9}, where="id = 4"),
    lambda store, line: lake.open(branch=line, **at(store)).compact(),
    lambda store, line: lake.open(branch=line, **at(store)).merge_branch("b"),
    lambda store, line: lake.open(branch="b", **at(store)).append(rows(400)),
    lambda store, line: lake.open(**at(store)).delete_branch("b"),
]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize(
    ("meanwhile", "nested"), [*((at, False) for at in range(len(MEANWHILE))), (0, True), (3, True), (5, True)]
)
def test_others_do_something_at_every_call(meanwhile: int, nested: bool, stride: int) -> None:
    """It lands on what they left, or is refused; all is collected and nothing is missing. spec: BRA-12, BRA-17"""
    objects = prepared(nested=nested)
    line = "outer" if nested else None

    def merge(store: Store) -> object:
        return lake.open(branch=line, **at(store)).merge_branch("b")

    for place in range(meanwhile * 3 % stride, count_calls(merge, fresh(objects)), stride):
        store = fresh(objects)
        done: list[int] = []

        def plan(
            number: int,
            _method: str,
            _path: str,
            place: int = place,
            store: Store = store,
            done: list[int] = done,
        ) -> None:
            if number == place:
                done.append(number)
                MEANWHILE[meanwhile](store, line)
                lake.open(**at(store)).collect_garbage(dry_run=False, grace=NOW)

        try:
            merge(FaultyStore(store, plan))
            landed = True
        except (ConflictError, NotFoundError):
            landed = False
            assert meanwhile in (1, 5)
        table = lake.open(branch=line, **at(store))
        found = content(table)
        assert (200 in found, 6 not in found) == ((True, True) if landed else (False, False))
        assert (300 in found) == (meanwhile == 0 and bool(done))
        assert table.verify().ok
