"""The version log: the newest version in two requests, one winner a number, no lost answer taken for a failure."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SCHEMA, bare_version, still_surroundings, uuids
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_format.changes import AddFragments
from lake_format.codec import encode_version
from lake_format.errors import CorruptionError, LakeError, NotFoundError, StateUnknownError, UnsupportedError
from lake_format.log import VersionLog
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.paths import LATEST, version_path
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore
from lake_format.transaction import Surroundings, commit


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://log-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def log_of(store: Store) -> VersionLog:
    return VersionLog(store, lambda _seconds: None)


def fill(store: Store, count: int, *, first: int = 1) -> None:
    for number in range(first, first + count):
        store.create(version_path(number), _encoded(number))


@cache
def _encoded(number: int) -> bytes:
    return encode_version(bare_version(number))


def test_versions_lie_where_the_specification_says(store: Store) -> None:
    """spec: COM-1, TAB-1"""
    fill(store, 3)
    log_of(store).publish_hint(bare_version(3))
    paths = [info.path for info in store.list("")]
    assert paths == ["_lake/latest", *(f"_lake/versions/{number:020d}.lake" for number in (1, 2, 3))]
    assert store.get("_lake/latest") == store.get(f"_lake/versions/{3:020d}.lake")


@pytest.mark.parametrize("count", [1, 2, 500])
def test_a_current_hint_means_two_requests(store: Store, count: int) -> None:
    """spec: COM-6"""
    fill(store, count)
    log_of(store).publish_hint(bare_version(count))
    metered = MeteredStore(store)
    assert log_of(metered).latest() == bare_version(count)
    assert metered.usage().requests == {"get": 2}


@given(st.integers(1, 70), st.data())
@settings(max_examples=60)
def test_any_hint_leads_to_the_newest_version(count: int, data: st.DataObject) -> None:
    """Current, lagging by any distance, missing, or broken in any way. spec: COM-5, COM-6"""
    uri = f"memory://log-{uuid4().hex}"
    store = open_store(uri)
    fill(store, count)
    newer = encode_version(bare_version(1)).replace(b"LAKEVER0", b"LAKEVER9")
    hints = st.one_of(st.none(), st.integers(1, count), st.binary(max_size=40), st.just(newer))
    hint = data.draw(hints)
    if hint is not None:
        store.put(LATEST, encode_version(bare_version(hint)) if isinstance(hint, int) else hint)
    metered = MeteredStore(store)
    assert log_of(metered).latest() == bare_version(count)
    lag = count - (hint if isinstance(hint, int) else 1)
    assert metered.usage().total_requests <= 3 + 2 * math.ceil(math.log2(lag + 1))
    assert "list" not in metered.usage().requests
    forget_memory(uri)


def test_no_table(store: Store) -> None:
    for what in (lambda log: log.latest(), lambda log: log.read(1)):
        with pytest.raises(NotFoundError, match="memory://log-"):
            what(log_of(store))


def test_a_foreign_name_among_the_versions_is_not_one(store: Store) -> None:
    """spec: TAB-1"""
    fill(store, 2)
    for name in ("99.lake", f"{7:020d}.tmp", f"{7:020d}.lake.bak"):
        store.put(f"_lake/versions/{name}", b"?")
    assert log_of(store).numbers() == [1, 2]
    assert log_of(store).latest() == bare_version(2)


def test_a_version_under_another_number_is_refused(store: Store) -> None:
    """spec: TAB-10"""
    store.create(version_path(4), encode_version(bare_version(3)))
    with pytest.raises(CorruptionError, match="holds version 3"):
        log_of(store).read(4)


def test_an_unsupported_newest_version_is_said_even_behind_a_hint(store: Store) -> None:
    """spec: TAB-6, COM-6"""
    fill(store, 2)
    future = replace(bare_version(3), required_features=frozenset({"time-machine"}))
    store.create(version_path(3), encode_version(future))
    for hint in (bare_version(2), future):
        store.put(LATEST, encode_version(hint))
        with pytest.raises(UnsupportedError, match="time-machine"):
            log_of(store).latest()


def test_one_of_sixteen_wins_each_number(any_store: Store) -> None:
    """spec: COM-1"""
    rounds, threads = 3, 16
    wins: list[tuple[int, str]] = []
    gate = threading.Barrier(threads)

    def race(name: str) -> None:
        for number in range(1, rounds + 1):
            gate.wait()
            if log_of(any_store).claim(replace(bare_version(number), commit_id=name)):
                wins.append((number, name))

    racers = [threading.Thread(target=race, args=(f"racer-{index}",)) for index in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(number for number, _ in wins) == [1, 2, 3]
    for number, name in wins:
        assert log_of(any_store).read(number).commit_id == name


@pytest.mark.parametrize("fault", [Fault.LOSE_RESPONSE, Fault.LOSE_REQUEST])
@pytest.mark.parametrize("times", [1, 4, 5])
def test_a_lost_answer_is_resolved_by_the_commit_id(store: Store, fault: Fault, times: int) -> None:
    """spec: COM-4"""

    def plan(number: int, method: str, _path: str) -> Fault | None:
        return fault if method == "create" and number < times else None

    faulty = FaultyStore(store, plan)
    if fault is Fault.LOSE_REQUEST and times == 5:
        with pytest.raises(StateUnknownError, match=r"commit-1 landed as version 1.*refresh"):
            log_of(faulty).claim(bare_version(1))
        return
    assert log_of(faulty).claim(bare_version(1))
    assert store.get(version_path(1)) == encode_version(bare_version(1))


def test_a_lost_answer_to_a_lost_race_is_a_loss(store: Store) -> None:
    """spec: COM-4"""
    theirs = replace(bare_version(1), commit_id="theirs")
    assert log_of(store).claim(theirs)
    for plan in (
        {},
        {0: Fault.LOSE_REQUEST},
        dict.fromkeys(range(5), Fault.LOSE_REQUEST),
        {1: Fault.LOSE_REQUEST},
    ):
        assert not log_of(FaultyStore(store, plan)).claim(bare_version(1))
    assert log_of(store).read(1) == theirs


def test_when_nothing_can_be_read_back_the_outcome_is_unknown(store: Store) -> None:
    """A number taken, by us or by others, and a store that does not say by whom. spec: COM-4"""

    def plan(number: int, _method: str, _path: str) -> Fault | None:
        return Fault.LOSE_RESPONSE if number else None

    for first in ("mine", "theirs"):
        log_of(store).claim(replace(bare_version(1), commit_id=first))
        with pytest.raises(StateUnknownError) as caught:
            log_of(FaultyStore(store, plan)).claim(replace(bare_version(1), commit_id="mine"))
        assert "mine" in str(caught.value)


def test_a_hint_that_cannot_be_written_is_no_failure(store: Store) -> None:
    """spec: COM-5"""
    fill(store, 1)
    for fault in (Fault.LOSE_REQUEST, Fault.LOSE_RESPONSE, Fault.PERMISSION_DENIED, Fault.DISK_FULL):
        log_of(FaultyStore(store, {0: fault})).publish_hint(bare_version(1))
    assert log_of(store).latest() == bare_version(1)


@pytest.mark.parametrize("fault", [Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE])
def test_a_crash_while_claiming_is_all_or_nothing(store: Store, fault: Fault) -> None:
    """spec: COM-10"""
    fill(store, 1)
    with pytest.raises(SimulatedCrash):
        log_of(FaultyStore(store, {0: fault})).claim(bare_version(2))
    landed = fault is Fault.CRASH_AFTER
    assert log_of(store).latest() == bare_version(2 if landed else 1)
    assert log_of(store).claim(bare_version(2))  # a second process with the same commit finds it, or lands it


def _append(log: VersionLog, base: Version, around: Surroundings) -> Version:
    record = OperationRecord(kind="append")
    change = AddFragments(record=record, summary={}, fragments=())
    return commit(log, ManifestSet(open_store("memory://unused"), uuids().__next__), base, [change], around)


def test_times_grow_whatever_the_clock_does(store: Store) -> None:
    """spec: COM-8"""
    clock = iter([1000.0, 1000.0, 5.0, 2000.0])
    around = still_surroundings(now=clock.__next__)
    lake.create("memory://unused", SCHEMA, store=store, surroundings=around)
    log = log_of(store)
    for _ in range(3):
        _append(log, log.latest(), around)
    times = [log.read(number).committed_at for number in log.numbers()]
    assert times == [1_000_000_000, 1_000_000_001, 1_000_000_002, 2_000_000_000]


def test_a_busy_table_is_a_conflict_in_the_end(store: Store) -> None:
    """A committer that never wins gives up, with nothing landed."""
    around = still_surroundings()
    lake.create("memory://unused", SCHEMA, store=store, surroundings=around)
    log = log_of(store)
    mine = log.latest()
    rival = log_of(store)

    class AlwaysLate(VersionLog):
        def claim(self, version: Version) -> bool:
            rival.claim(replace(version, commit_id=f"rival-{version.version}"))
            return super().claim(version)

    with pytest.raises(LakeError, match="other commits came first"):
        _append(AlwaysLate(store, lambda _: None), mine, around)
    assert all(log.read(number).commit_id.startswith("rival") for number in log.numbers()[1:])
