"""Transactions: several operations in one commit, seen by each other, by others all at once or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls

import lake_format as lake
from lake_format.errors import (
    ConflictError,
    InvalidInputError,
    LakeError,
    StateUnknownError,
    UnsupportedError,
)
from lake_format.store import Store, forget_memory, open_store
from lake_format.transaction import Surroundings

SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), False), ("price", pa.int64()), ("v", pa.list_(pa.float32(), 2))]
)


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": ids, "price": [10 * i for i in ids], "v": [[i, 0] for i in ids]}, SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://transactions-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


@pytest.fixture
def table(store: Store) -> lake.Table:
    return lake.create("unused", SCHEMA, store=store).append(rows(1, 2, 3))


def opened(store: Store) -> lake.Table:
    return lake.open("unused", store=store, surroundings=Surroundings(sleep=lambda _seconds: None))


def prices(table: lake.Table) -> dict[int, Any]:
    found = table.scan(["id", "price"]).read_all().to_pylist()
    assert len({row["id"] for row in found}) == len(found) == table.count()
    return {row["id"]: row["price"] for row in found}


def paths(store: Store) -> set[str]:
    return {info.path for info in store.list("")}


def everything(tx: lake.Table) -> None:
    """Operations of every kind, each on what those before it did."""
    tx.append(rows(4, 5))
    tx.delete("id = 1")
    tx.update({"price": lake.sql("price + 1")}, "id >= 4")
    tx.upsert(pa.table({"id": [5, 6], "price": [500, 600], "v": [[5, 5], [6, 6]]}, SCHEMA), on="id")
    tx.add_column("double", pa.int64(), lake.sql("price * 2"))
    tx.append(pa.table({"id": [7], "price": [70], "double": [7]}))
    tx.rename_column("double", "twice")
    tx.set_properties({"user.loaded": "yes"})
    tx.create_index("v")


AFTER = {2: (20, 40), 3: (30, 60), 4: (41, 82), 5: (500, 1000), 6: (600, 1200), 7: (70, 7)}


def check_everything(table: lake.Table, more: dict[int, tuple[int, int]] | None = None) -> None:
    found = table.scan(["id", "price", "twice"]).read_all().to_pylist()
    assert {row["id"]: (row["price"], row["twice"]) for row in found} == AFTER | (more or {})
    assert table.properties == {"user.loaded": "yes"}
    near = table.search([6, 6], 1, select=["id", "_distance"]).to_pylist()
    assert near == [{"id": 6, "_distance": 0.0}]
    report = table.verify()
    assert report.ok, report.problems


def test_operations_see_each_other_and_land_as_one_commit(table: lake.Table, store: Store) -> None:
    """spec: CON-13"""
    version = table.version
    with table.transaction() as tx:
        everything(tx)
        check_everything(tx)
        assert opened(store).version == version
        assert prices(opened(store)) == prices(table) == {1: 10, 2: 20, 3: 30}
    assert table.version == opened(store).version == version + 1
    check_everything(table)
    check_everything(opened(store))
    history = table.versions()[-1]
    assert history["operation"].startswith("append")
    with pytest.raises(InvalidInputError, match="the transaction is over"):
        tx.append(rows(9))


def test_nothing_lands_and_nothing_stays_if_the_block_raises(table: lake.Table, store: Store) -> None:
    before = paths(store)

    def fail() -> None:
        with table.transaction() as tx:
            everything(tx)
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert prices(opened(store)) == {1: 10, 2: 20, 3: 30}
    assert paths(store) == before
    with table.transaction():
        pass
    assert opened(store).version == table.version == 2


def during(
    table: lake.Table,
    work: Callable[[lake.Table], object],
    theirs: Callable[[lake.Table], object],
    **options: Any,
) -> None:
    """Run a transaction during which somebody else commits."""
    other = opened(table.snapshot.store)
    with table.transaction(**options) as tx:
        work(tx)
        theirs(other)


def test_what_commutes_lands_as_it_was_done(table: lake.Table) -> None:
    """spec: CON-13, IDN-2"""

    def work(tx: lake.Table) -> None:
        tx.append(rows(4))
        tx.delete("id = 1")

    during(table, work, lambda other: other.append(rows(8, 9)).update({"price": 0}, "id = 9"))
    assert prices(table) == {2: 20, 3: 30, 4: 40, 8: 80, 9: 0}
    assert table.take([5])["id"].to_pylist() == [4]


@pytest.mark.parametrize(
    "theirs",
    [
        lambda other: other.append(rows(-8, -9)),
        lambda other: other.append(rows(-8)).append(rows(-9)).compact(),
        lambda other: (other.append(rows(-8, -9)).delete("id = 3"), other.append(rows(3))),
        lambda other: other.append(rows(-8, -9)).create_index("v", name="theirs"),
    ],
    ids=["append", "compact", "replace a row", "index"],
)
def test_all_is_done_again_where_operations_build_on_each_other(
    table: lake.Table, theirs: Callable[[lake.Table], object]
) -> None:
    """spec: CON-13"""
    during(table, everything, theirs)
    more = {-8: (-80, -160), -9: (-90, -180)}
    check_everything(table, more)
    check_everything(opened(table.snapshot.store), more)


def test_rows_that_others_added_are_seen_when_all_is_done_again(table: lake.Table) -> None:
    """An upsert meets a key that came meanwhile: it updates it, and what follows sees the result. spec: CON-7"""

    def work(tx: lake.Table) -> None:
        tx.upsert(rows(3, 4).set_column(1, "price", pa.array([33, 44])), on="id")
        tx.update({"price": lake.sql("price + 1")}, "price > 32")

    during(table, work, lambda other: other.append(rows(4)))
    assert prices(table) == {1: 10, 2: 20, 3: 34, 4: 45}


def test_what_does_not_go_together_is_a_conflict(table: lake.Table, store: Store) -> None:
    """spec: CON-10, CON-13"""

    def work(tx: lake.Table) -> None:
        tx.append(rows(4))
        tx.update({"price": 7}, "id = 2")

    with pytest.raises(ConflictError, match="update meets update"):
        during(table, work, lambda other: other.update({"price": 8}, "id = 2"))
    assert prices(opened(store)) == {1: 10, 2: 8, 3: 30}
    named = {file["path"] for file in opened(store).inspect.files().to_pylist()}
    assert {path for path in paths(store) if path.startswith("data/")} - named <= {
        file["path"] for file in lake.open("unused", 2, store=store).inspect.files().to_pylist()
    }

    def columns(tx: lake.Table) -> None:
        tx.add_column("a", pa.int64())
        tx.rename_column("a", "b")

    with pytest.raises(ConflictError, match="others added columns"):
        during(table, columns, lambda other: other.add_column("c", pa.int64()))


def test_columns_of_a_transaction_get_other_ids_where_others_added_some(table: lake.Table) -> None:
    """spec: IDN-16"""

    def work(tx: lake.Table) -> None:
        tx.add_column("a", pa.list_(pa.int64()))
        tx.append(pa.table({"id": [4], "price": [40], "v": [[4, 0]], "a": [[1, 2]]}, tx.schema))
        tx.update({"a": [9]}, "id = 1")

    during(table, work, lambda other: other.add_column("b", pa.string(), "x"))
    found = {row["id"]: (row["a"], row["b"]) for row in table.to_arrow().to_pylist()}
    assert found == {1: ([9], "x"), 2: (None, "x"), 3: (None, "x"), 4: ([1, 2], "x")}
    assert table.verify().ok


def test_isolation_is_a_property_and_an_option(table: lake.Table) -> None:
    """spec: CON-9"""

    def raise_prices(tx: lake.Table) -> None:
        tx.update({"price": lake.sql("price + 1")}, "price >= 20")

    during(table, raise_prices, lambda other: other.append(rows(8)))
    assert prices(table)[8] == 80
    during(table, raise_prices, lambda other: other.append(rows(9)), isolation="serializable")
    assert prices(table)[9] == 91
    table.set_properties({"write.isolation": "serializable"})
    during(table, raise_prices, lambda other: other.append(rows(10)))
    assert prices(table)[10] == 101
    with pytest.raises(InvalidInputError, match="unknown isolation"), table.transaction(isolation="none"):
        pass
    with pytest.raises(InvalidInputError, match="'snapshot' or 'serializable'"):
        table.set_properties({"write.isolation": "none"})


def test_a_job_that_is_run_again_lands_once(table: lake.Table) -> None:
    """spec: IDN-18"""
    for _ in range(2):
        with table.transaction(idempotency=("job", 1)) as tx:
            tx.append(rows(4))
            tx.delete("id = 1")
    assert prices(table) == {2: 20, 3: 30, 4: 40}


@pytest.mark.parametrize(
    "what",
    [
        lambda tx: tx.compact(),
        lambda tx: tx.expire_versions(),
        lambda tx: tx.collect_garbage(),
        lambda tx: tx.optimize_index(),
        lambda tx: tx.tag("x"),
        lambda tx: tx.restore(1),
        lambda tx: tx.plan_backfill("price", 1),
    ],
)
def test_what_is_a_commit_of_its_own_is_refused(
    table: lake.Table, what: Callable[[lake.Table], object]
) -> None:
    with pytest.raises(UnsupportedError, match="cannot be part of a transaction"), table.transaction() as tx:
        what(tx)
    with (
        pytest.raises(InvalidInputError, match=r"pass idempotency= to transaction\(\)"),
        table.transaction() as tx,
    ):
        tx.append(rows(4), idempotency=("job", 1))
    with (
        pytest.raises(UnsupportedError, match="within another one"),
        table.transaction() as tx,
        tx.transaction(),
    ):
        pass
    assert prices(table) == {1: 10, 2: 20, 3: 30}


def fresh(objects: dict[str, bytes]) -> Store:
    store = open_store(f"memory://transactions-{uuid4().hex}")
    for path, data in objects.items():
        store.create(path, data)
    return store


@pytest.mark.parametrize(
    "fault",
    [
        Fault.CRASH_AFTER,
        pytest.param(Fault.CRASH_BEFORE, marks=pytest.mark.long),
        pytest.param(Fault.LOSE_RESPONSE, marks=pytest.mark.long),
    ],
)
def test_a_fault_at_any_call_leaves_all_or_nothing(table: lake.Table, store: Store, fault: Fault) -> None:
    objects = {path: store.get(path) for path in paths(store)}

    def job(faulty: Store) -> None:
        with opened(faulty).transaction() as tx:
            tx.append(rows(4, 5))
            tx.delete("id = 1")
            tx.add_column("double", pa.int64(), lake.sql("price * 2"))

    for call in range(count_calls(job, fresh(objects))):
        faulty = FaultyStore(fresh(objects), {call: fault})
        acknowledged = False
        try:
            job(faulty)
            acknowledged = True
        except (LakeError, SimulatedCrash, StateUnknownError):
            pass
        faulty.revive()
        after = opened(faulty.inner)
        found = {row["id"]: row.get("double") for row in after.to_arrow().to_pylist()}
        done = {2: 40, 3: 60, 4: 80, 5: 100}
        assert found == done or (not acknowledged and found == {1: None, 2: None, 3: None}), call
        assert after.verify().ok, call
