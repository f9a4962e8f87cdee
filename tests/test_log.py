"""The version log: the newest version in two requests, one winner a number, no lost answer taken for a failure."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SCHEMA, bare_version, fragment, still_surroundings, uuids
from stores.faulty import Fault, FaultyStore, SimulatedCrash

import lake_format as lake
from lake_format.changes import AddFragments
from lake_format.codec import encode_version
from lake_format.errors import (
    CorruptionError,
    LakeError,
    NotFoundError,
    NotWrittenError,
    StateUnknownError,
    UnsupportedError,
)
from lake_format.log import VersionLog
from lake_format.manifest import inline_manifest
from lake_format.manifest_set import MERGE_WIDTH, ManifestSet
from lake_format.model import Fragment, NewFragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.paths import LATEST, MANIFESTS, version_path
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


@pytest.fixture(params=["memory", "disk"])
def anywhere(request: pytest.FixtureRequest, store: Store, tmp_path: Path) -> Store:
    return store if request.param == "memory" else open_store(str(tmp_path))


def made_anew(store: Store, count: int) -> None:
    """Remove a table and make another with as many versions in its place."""
    for info in list(store.list("")):
        store.delete(info.path)
    for number in range(1, count + 1):
        store.create(
            version_path(number), encode_version(replace(bare_version(number), commit_id=f"new-{number}"))
        )


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_table_made_anew_is_followed(anywhere: Store, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer versions than before, as many, or more."""
    monkeypatch.setattr("lake_format.log._SURE_SECONDS", 0.0)
    fill(anywhere, 3)
    log = log_of(anywhere)
    known = log.newest_there(log.read(2))
    assert known.version == 3
    assert log.newest_there(known) is known
    made_anew(anywhere, count)
    for _ in range(2):
        known = log.newest_there(known)
        assert known.commit_id == f"new-{count}"
    made_anew(anywhere, 0)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="no table at"):
            log.newest_there(known)


def test_a_table_that_goes_at_once_is_missed_on_disk_without_delay(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    fill(store, 3)
    log = log_of(store)
    known = log.newest_there(log.read(3))
    metered = MeteredStore(store)
    seen = log_of(metered)
    assert seen.newest_there(known) is known
    first = metered.usage().total_requests
    assert seen.newest_there(known) is known
    assert metered.usage().total_requests == first + 1  # for the next version
    made_anew(store, 1)
    assert log.newest_there(known).commit_id == "new-1"
    assert seen.newest_there(known).commit_id == "new-1"


def test_a_remote_store_is_asked_again_after_a_while_only(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    metered = MeteredStore(store)
    log = log_of(metered)
    known = log.read(3)
    counts = []
    for pause in (0.0, 0.0, 2.0, 0.0):
        now = time.monotonic() + pause
        monkeypatch.setattr("lake_format.log.time.monotonic", lambda now=now: now)
        before = metered.usage().total_requests
        assert log.newest_there(known) is known
        counts.append(metered.usage().total_requests - before)
    assert counts == [2, 1, 2, 1]


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


@pytest.mark.parametrize("fault", [Fault.PERMISSION_DENIED, Fault.DISK_FULL])
def test_a_claim_that_is_refused_did_not_land(store: Store, fault: Fault) -> None:
    """Said at once and for certain, but not where an earlier attempt may have landed. spec: COM-4"""
    fill(store, 1)
    refusing = FaultyStore(store, lambda _number, method, _path: fault if method == "create" else None)
    with pytest.raises(NotWrittenError, match="failed"):
        log_of(refusing).claim(bare_version(2))
    assert [method for method, _ in refusing.calls] == ["create"]
    assert log_of(store).latest() == bare_version(1)
    for lost, lands in ((Fault.LOSE_RESPONSE, True), (Fault.LOSE_REQUEST, False)):
        number = 2 if lands else 3
        plan = [lost, *[fault] * 9]
        store_then = FaultyStore(
            store, lambda _n, method, _p, plan=plan: plan.pop(0) if method == "create" else None
        )
        if lands:
            assert log_of(store_then).claim(bare_version(number))
        else:
            with pytest.raises(StateUnknownError):
                log_of(store_then).claim(bare_version(number))


def test_a_refused_second_look_at_a_store_is_no_refusal_of_the_table(store: Store) -> None:
    """The first version is created twice to put the store to the test. spec: COM-4"""
    creates = iter([None, Fault.PERMISSION_DENIED, None])
    faulty = FaultyStore(store, lambda _n, method, _p: next(creates) if method == "create" else None)
    assert log_of(faulty).claim(bare_version(1))


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


@pytest.mark.parametrize("rivals_add", [False, True])
def test_a_commit_that_is_beaten_writes_no_manifest_twice(store: Store, rivals_add: bool) -> None:
    """Stored manifests that are merged are the same on the next attempt; what no version names is removed."""
    around = still_surroundings(new_id=uuid4)
    lake.create("memory://unused", SCHEMA, store=store, surroundings=around)
    manifests = ManifestSet(store, uuid4)
    stored = []
    for number in range(MERGE_WIDTH - 1):
        one = manifests._spill(inline_manifest([fragment(number)]), {})
        stored.append(one)
    big = [fragment(number + 100, statistics=(), deletions=None) for number in range(700)]
    base = replace(log_of(store).latest(), version=2, parent=1, commit_id="2", manifests=tuple(stored))
    log = log_of(store)
    assert log.claim(replace(base, next_fragment_id=1000, next_row_id=10_000))

    class BeatenTwice(VersionLog):
        def claim(self, version: Version) -> bool:
            if version.version < 5:
                inner = replace(log.latest(), version=version.version, parent=version.version - 1)
                if rivals_add:  # then the new fragments have other ids in the next attempt
                    inner = replace(inner, next_fragment_id=inner.next_fragment_id + 1)
                assert log.claim(replace(inner, commit_id=f"rival-{version.version}", operations=()))
            return super().claim(version)

    change = AddFragments(
        record=OperationRecord(kind="append"), summary={}, fragments=tuple(map(_unplaced, big))
    )
    metered = MeteredStore(store)
    landed = commit(
        BeatenTwice(metered, lambda _: None), ManifestSet(metered, uuid4), log.latest(), [change], around
    )
    assert landed.version == 5
    named = {reference.path for reference in landed.manifests}
    left = {info.path for info in store.list(MANIFESTS)} - {reference.path for reference in stored}
    assert left == named - {reference.path for reference in stored}
    written = metered.usage().requests["create"] - 3  # three claims
    assert (written - len(left), len(left) > 0) == (2 if rivals_add else 0, True)


def _unplaced(one: Fragment) -> NewFragment:
    return NewFragment(row_count=one.row_count, groups=one.groups, statistics=one.statistics)


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
