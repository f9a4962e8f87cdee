"""The test fixtures themselves: a meter that counts right, faults that do what they say, rounds that add up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from stores.range_server import RangeServer

from lake_format.errors import StorageError
from lake_format.store import ByteRange, Store, open_store
from lake_format.store.local import LocalStore
from lake_format.store.metered import MeteredStore, Usage


@pytest.fixture
def inner(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "inner", sync=False)


def paths(store: Store) -> list[str]:
    return [info.path for info in store.list("")]


def test_meter_counts_requests_rounds_and_bytes(inner: LocalStore) -> None:
    store = MeteredStore(inner)
    assert isinstance(store, Store)
    store.create("a", bytes(100))
    store.put("b", bytes(10))
    with store.open_writer("c") as writer:
        writer.write(bytes(30))
        writer.write(bytes(3))
    store.get("a")
    store.get_ranges([ByteRange("a", 0, 7), ByteRange("a", 50, 8), ByteRange("b", 0, 1)])
    store.get_suffix("a", 4)
    store.size("a")
    list(store.list(""))
    store.delete("b")
    assert store.local_path("a") == inner.local_path("a")
    assert store.usage() == Usage(
        {
            "create": 1,
            "put": 1,
            "open_writer": 1,
            "get": 1,
            "get_ranges": 3,
            "get_suffix": 1,
            "size": 1,
            "list": 1,
            "delete": 1,
        },
        rounds=9,
        bytes_read=100 + 16 + 4,
        bytes_written=100 + 10 + 33,
    )
    assert store.usage().total_requests == 11
    before = store.usage()
    store.get("a")
    assert store.usage().since(before) == Usage({"get": 1}, 1, 100, 0)
    store.reset()
    assert store.usage() == Usage()


def test_meter_counts_from_many_threads(inner: LocalStore) -> None:
    store = MeteredStore(inner)
    store.create("a", bytes(10))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.get, ["a"] * 400))
    assert store.usage().requests["get"] == 400
    assert store.usage().bytes_read == 4_000


def test_a_faulty_store_without_faults_changes_nothing(inner: LocalStore) -> None:
    def job(store: Store) -> None:
        store.create("a", b"1")
        store.put("b", b"2")
        with store.open_writer("c") as writer:
            writer.write(b"3")
        assert store.get("a") == b"1"
        assert store.get_ranges([ByteRange("b", 0, 1)]) == [b"2"]
        assert store.get_suffix("c", 1) == (b"3", 1)
        assert store.size("c") == 1
        assert paths(store) == ["a", "b", "c"]
        store.delete("b")
        assert store.local_path("a") is None

    assert count_calls(job, inner) == 11
    assert isinstance(FaultyStore(inner), Store)


@pytest.mark.parametrize(
    ("fault", "visible"),
    [(Fault.CRASH_BEFORE, False), (Fault.CRASH_MID_WRITE, False), (Fault.CRASH_AFTER, True)],
)
@pytest.mark.parametrize("how", ["create", "put", "close"])
def test_crashes(inner: LocalStore, fault: Fault, visible: bool, how: str) -> None:
    store = FaultyStore(inner, {2 if how == "close" else 0: fault})

    def job() -> None:
        if how == "close":
            with store.open_writer("x") as writer:
                writer.write(b"data")
        else:
            getattr(store, how)("x", b"data")

    with pytest.raises(SimulatedCrash):
        job()
    with pytest.raises(SimulatedCrash):  # a dead process does nothing more
        store.get("x")
    store.revive()
    assert paths(store) == (["x"] if visible else [])
    if visible:
        assert store.get("x") == b"data"
    leftovers = inner.remove_leftovers(older_than=-1)
    assert leftovers == (0 if visible or (fault is Fault.CRASH_BEFORE and how != "close") else 1)


@pytest.mark.parametrize(
    ("fault", "words", "visible"),
    [
        (Fault.LOSE_RESPONSE, "connection reset", True),
        (Fault.LOSE_REQUEST, "connection reset", False),
        (Fault.PERMISSION_DENIED, "permission denied", False),
        (Fault.DISK_FULL, "disk is full", False),
    ],
)
def test_failures(inner: LocalStore, fault: Fault, words: str, visible: bool) -> None:
    store = FaultyStore(inner, {1: fault})
    store.create("x", b"1")
    with pytest.raises(StorageError, match=words):
        store.create("y", b"2")
    assert paths(store) == (["x", "y"] if visible else ["x"])


def test_short_reads_and_plans_by_method(inner: LocalStore) -> None:
    inner.create("x", b"0123456789")
    store = FaultyStore(
        inner, lambda _number, method, _path: Fault.SHORT_READ if method.startswith("get") else None
    )
    assert store.get("x") == b"01234"
    assert store.get_ranges([ByteRange("x", 0, 4)]) == [b"01"]
    assert store.get_suffix("x", 4) == (b"67", 10)
    assert store.size("x") == 10


def test_listings_lag(inner: LocalStore) -> None:
    store = FaultyStore(inner, listing_lag=2)
    store.create("x", b"")
    assert store.get("x") == b""
    assert [paths(store) for _ in range(3)] == [[], [], ["x"]]


def test_rounds_are_chains_of_dependent_requests(range_server: Callable[..., RangeServer]) -> None:
    server = range_server(latency=0.03)
    server.backing.create("x", bytes(1000))
    store = open_store(server.uri(), server.storage_options)
    for _ in range(3):
        store.get("x")
    assert (server.rounds(), server.count("GET"), server.bytes_sent()) == (3, 3, 3000)
    server.reset()
    barrier = threading.Barrier(2)

    def chain(_: int) -> None:
        barrier.wait()
        store.get("x")
        store.size("x")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(chain, range(2)))
    assert (server.rounds(), server.count("GET"), server.count("HEAD")) == (2, 2, 2)


def test_latency_and_bandwidth_are_injected(range_server: Callable[..., RangeServer]) -> None:
    server = range_server(latency=0.05, waves=False, bytes_per_second=1e6)
    server.backing.create("x", bytes(100_000))
    store = open_store(server.uri(), server.storage_options)
    store.get("x")
    (request,) = server.requests
    assert request.finished - request.started >= 0.05 + 0.1
