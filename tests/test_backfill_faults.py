"""Columns with values and backfills, struck at every storage call: all or nothing, and a job goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from backfill_samples import SCHEMA, batch, column
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_format.errors import LakeError
from lake_format.expressions import sql
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

Job = Callable[[lake.Table], Any]
FAULTS = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE, Fault.LOSE_RESPONSE, Fault.DISK_FULL)
ADD: Job = lambda table: table.add_column("new", pa.int64(), sql("id + 1"), nullable=False)  # noqa: E731
FILL: Job = lambda table: table.backfill("n", sql("id + 1"), "id <> 3")  # noqa: E731
RESUME: Job = lambda table: table.backfill("n", sql("id + 1"), "id <> 3", job="j")  # noqa: E731
WIDEN: Job = lambda table: table.widen_column("id", pa.int64())  # noqa: E731


def _open(store: Store) -> lake.Table:
    return lake.open("unused", store=store, surroundings=Surroundings(sleep=lambda _seconds: None))


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    store = open_store(f"memory://{uuid4().hex}")
    table = lake.create("unused", SCHEMA, store=store, properties={"write.fragment-rows": 4})
    table.append(batch(*range(8))).add_column("n", pa.int64())
    return {info.path: store.get(info.path) for info in store.list("")}


def _values(table: lake.Table) -> Any:
    names = table.schema.names
    return table.schema, column(table, "n"), column(table, "new") if "new" in names else None


@pytest.mark.parametrize("job", [ADD, FILL, RESUME, WIDEN], ids=["add", "fill", "job", "widen"])
def test_a_fault_at_any_call(objects: dict[str, bytes], job: Job) -> None:
    """spec: EVO-8, EVO-9"""

    def fresh() -> FaultyStore:
        uri = f"memory://{uuid4().hex}"
        store = open_store(uri)
        for path, data in objects.items():
            store.create(path, data)
        return FaultyStore(store)

    quiet = fresh()
    before = _values(_open(quiet))
    start = len(quiet.calls)
    job(_open(quiet))
    calls = len(quiet.calls) - start
    after = _values(_open(quiet))
    assert before != after
    for number in range(calls):
        for fault in {FAULTS[number % len(FAULTS)], FAULTS[(2 * number + 1) % len(FAULTS)]}:
            store = fresh()
            store._plan = lambda at, method, path, number=number, fault=fault: fault if at == number else None  # type: ignore[assignment]
            acknowledged = True
            try:
                job(_open(store))
            except (SimulatedCrash, LakeError):
                acknowledged = False
            store.revive()
            found = _values(_open(store))
            assert found in ([after] if acknowledged else [before, after]), (
                number,
                fault,
                store.calls[number],
            )
            if found == before:  # whoever tries again succeeds
                job(_open(store))
                assert _values(_open(store)) == after
    forget_memory("memory://")


def test_a_failed_fill_leaves_no_files_behind(objects: dict[str, bytes]) -> None:
    for number in range(2):
        store = open_store(f"memory://{uuid4().hex}")
        for path, data in objects.items():
            store.create(path, data)
        seen: list[str] = []

        def strike(
            at: int, method: str, path: str, seen: list[str] = seen, number: int = number
        ) -> Fault | None:
            if method == "open_writer":
                seen.append(path)
            return Fault.DISK_FULL if method == "open_writer" and len(seen) == number + 1 else None

        with pytest.raises(LakeError, match="disk is full"):
            ADD(_open(FaultyStore(store, strike)))
        assert {info.path for info in store.list("")} == objects.keys()
