"""Writers of the key index, struck at every storage call: all or nothing, and no key is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from key_samples import PAIRS, pairs, small_runs
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_format.errors import LakeError
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

Job = Callable[[lake.Table], Any]
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE, Fault.LOSE_RESPONSE, Fault.DISK_FULL)
JOBS: dict[str, Job] = {
    "append that merges runs": lambda table: table.append(pairs(5, 100)),
    "upsert": lambda table: table.upsert(pairs(12, 4).slice(0, 9)),
    "new keys": lambda table: table.update({"id": lake.sql("id + 50")}, where="id >= 10"),
    "compact": lambda table: table.compact(),
    "declare another": lambda table: table.set_key("id"),
}


def _open(store: Store) -> lake.Table:
    return lake.open("unused", store=store, surroundings=Surroundings(sleep=lambda _seconds: None))


@pytest.fixture(scope="module")
def objects() -> Iterator[dict[str, bytes]]:
    with small_runs():
        store = open_store(f"memory://{uuid4().hex}")
        table = lake.create("unused", PAIRS, store=store, key=["region", "id"])
        for start in range(0, 15, 5):
            table.append(pairs(5, start))
        table.update({"id": lake.sql("id + 20")}, where="id = 2")
        yield {info.path: store.get(info.path) for info in store.list("")}


def _state(table: lake.Table) -> Any:
    """Rows, key and fragments; and that every row is found by its key and no key is there twice."""
    rows = sorted(table.to_arrow().to_pylist(), key=lambda row: row["id"])
    keys = [tuple(row[name] for name in table.key) for row in rows]
    assert table.get(keys if len(table.key) > 1 else [key[0] for key in keys]).to_pylist() == rows
    with pytest.raises(lake.DuplicateKeyError):
        table.append([{**rows[3], "v": 0}])
    return rows, table.key


@pytest.mark.long
@pytest.mark.parametrize("name", JOBS)
def test_a_fault_at_any_call(objects: dict[str, bytes], name: str) -> None:
    """spec: KEY-3, KEY-9, CHG-12"""
    strike(objects, JOBS[name], 1)


@pytest.mark.parametrize("name", JOBS)
def test_a_fault_at_some_calls(objects: dict[str, bytes], name: str) -> None:
    """spec: KEY-3, KEY-9, CHG-12"""
    strike(objects, JOBS[name], 6)


def strike(objects: dict[str, bytes], job: Job, step: int) -> None:
    """Run a job with a fault at every ``step``-th of its calls."""

    def fresh() -> FaultyStore:
        store = open_store(f"memory://{uuid4().hex}")
        for path, data in objects.items():
            store.create(path, data)
        return FaultyStore(store)

    with small_runs():
        quiet = fresh()
        before, start = _state(_open(quiet)), len(quiet.calls)
        job(_open(quiet))
        calls = len(quiet.calls) - start
        after = _state(_open(quiet))
        assert _open(quiet).verify().ok
        for number in range(step // 2, calls, step):
            store = fresh()
            fault = FAULTS[number % len(FAULTS)]
            store._plan = lambda at, method, path, number=number, fault=fault: fault if at == number else None  # type: ignore[assignment]
            acknowledged = True
            try:
                job(_open(store))
            except (SimulatedCrash, LakeError):
                acknowledged = False
            store.revive()
            found = _state(_open(store))
            assert found in ([after] if acknowledged else [before, after]), (
                number,
                fault,
                store.calls[number],
            )
            if number % 4 == 0:
                assert _open(store).verify().ok
                if found == before:  # whoever tries again succeeds
                    job(_open(store))
                    assert _state(_open(store)) == after
    forget_memory("memory://")
