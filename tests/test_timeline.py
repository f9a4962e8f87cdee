"""The history in few requests: a moment among a hundred thousand versions, and all of them listed.

spec: IDN-21, VER-2
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import SCHEMA, bare_version, still_surroundings, uuids
from stores.faulty import Fault, FaultyStore, SimulatedCrash
from stores.long_history import LongHistory, encoded_checkpoint, entry, time_of, version_of

import lake_format as lake
from lake_format.changes import AddFragments
from lake_format.checkpoint import (
    Checkpoint,
    block_start,
    decode_checkpoint,
    encode_checkpoint,
    entry_of,
    remembered,
    stride_start,
)
from lake_format.codec import decode_version, encode_version
from lake_format.errors import CorruptionError, InvalidInputError, NotFoundError, UnsupportedError
from lake_format.log import ExpiredError, VersionLog
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.paths import HISTORY, checkpoint_path
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore
from lake_format.timeline import history_of, version_at
from lake_format.transaction import Surroundings, commit

GOLDEN = Path(__file__).parent / "golden" / "v0" / "history"
COUNT = 100_350  # the next multiple of 1,024 is two versions ahead


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://timeline-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def commits(store: Store, count: int, around: Surroundings | None = None) -> Version:
    """So many commits of nothing; returns the last version."""
    around = around or still_surroundings(new_id=uuid4)
    log, manifests = VersionLog(store, lambda _: None), ManifestSet(store, uuids().__next__)
    newest = log.latest()
    for number in range(count):
        record = OperationRecord(kind="append")
        change = AddFragments(record=record, summary={"number": number}, fragments=())
        newest = commit(log, manifests, newest, [change], around)
    return newest


# --- a hundred thousand versions ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 700, 1023, 1024, 1025, 50_000, 99_328, COUNT - 40, COUNT - 1])
def test_a_moment_costs_three_requests_more_than_the_newest_version(store: Store, number: int) -> None:
    """After a hundred thousand commits too. spec: IDN-21"""
    metered = MeteredStore(LongHistory(store, COUNT))
    lake.open("unused", store=metered)
    newest = metered.usage()
    for later in (0, 59_999_999):
        table = lake.open("unused", as_of=moment(time_of(number) + later), store=metered)
        assert table.version == number
    assert newest.total_requests == 2
    assert metered.usage().since(newest).total_requests <= 2 * (newest.total_requests + 3)
    assert set(metered.usage().requests) == {"get"}


def test_moments_outside_the_history(store: Store) -> None:
    """spec: VER-2"""
    long = LongHistory(store, COUNT)
    with pytest.raises(NotFoundError, match="no table at"):
        lake.open("unused", as_of=moment(time_of(1) - 1), store=long)
    newest = replace(version_of(COUNT), horizon=90_000)
    with pytest.raises(ExpiredError, match="oldest version kept is 90000"):
        version_at(VersionLog(long), newest, time_of(90_000) - 1)
    assert version_at(VersionLog(long), newest, time_of(90_000)).version == 90_000


def test_the_newest_versions_are_listed_from_what_the_newest_remembers(store: Store) -> None:
    table = lake.open("unused", store=(metered := MeteredStore(LongHistory(store, COUNT))))
    metered.reset()
    last = COUNT - stride_start(COUNT)
    assert [one["version"] for one in table.versions(limit=last)] == list(range(COUNT - last + 1, COUNT + 1))
    assert metered.usage().total_requests == 0
    listed = table.versions(limit=200, newest_first=True)
    assert [one["version"] for one in listed] == list(range(COUNT, COUNT - 200, -1))
    assert metered.usage().requests == {"get": 1}


def test_all_versions_are_listed_in_a_few_rounds(store: Store) -> None:
    """One request for a thousand versions, sixteen at once. spec: IDN-21"""
    table = lake.open("unused", store=(metered := MeteredStore(LongHistory(store, COUNT))))
    metered.reset()
    found = table.inspect.versions()
    assert found["version"].to_pylist() == list(range(1, COUNT + 1))
    assert metered.usage().total_requests == 1 + 97
    assert metered.usage().rounds == 1 + 7


def test_commits_go_on_from_a_long_history(store: Store) -> None:
    """The writer takes earlier checkpoints over, across a multiple of 1,024 too."""
    metered = MeteredStore(LongHistory(store, COUNT))
    commits(metered, 1)
    metered.reset()
    assert commits(metered, 1).version % 1024 == 0
    # hint and probe; the claim and the hint; the checkpoint before and this one
    assert metered.usage().requests == {"get": 3, "create": 1, "put": 2}
    newest = commits(metered, 40)
    listed = [one.version for one in history_of(VersionLog(metered), newest)]
    assert listed == list(range(COUNT + 42, 0, -1))
    metered.reset()
    assert version_at(VersionLog(metered), newest, time_of(77_777)).version == 77_777
    assert metered.usage().requests == {"get": 3}


# --- what commits write -------------------------------------------------------------------------------------


def test_commits_remember_and_leave_checkpoints(store: Store) -> None:
    """Every version since the last multiple of 32; a checkpoint after each of those. spec: IDN-21"""
    lake.create("unused", SCHEMA, store=store, surroundings=still_surroundings())
    newest = commits(store, 1110)
    log = VersionLog(store)
    for number in (2, 32, 33, 34, 64, 1024, 1025, 1111):
        version = log.read(number)
        expected = [entry_of(log.read(at)) for at in range(stride_start(number) + 1, number)]
        assert list(version.history) == expected
    written = [info.path for info in store.list(HISTORY)]
    assert written == [checkpoint_path(number) for number in range(32, 1111, 32)]
    for number in (32, 1024, 1056, 1088):
        checkpoint = decode_checkpoint(store.get(checkpoint_path(number)), "here")
        expected = [entry_of(log.read(at)) for at in range(block_start(number) + 1, number + 1)]
        assert list(checkpoint.entries) == expected
        sizes = [(one.version, one.size) for one in checkpoint.milestones]
        size = store.size(checkpoint_path(1024))
        assert sizes == ([(1024, size)] if number > 1024 else [])
    assert [one.version for one in history_of(log, newest)] == list(range(1111, 0, -1))
    assert max(store.size(checkpoint_path(number)) for number in range(32, 1111, 32)) < 100_000


def test_a_missing_checkpoint_is_made_up_for_by_later_commits(store: Store) -> None:
    for missing in ({96}, {1024}, {32, 64, 96}, set(range(32, 1025, 32))):
        uri = f"memory://timeline-{uuid4().hex}"
        below = open_store(uri)
        start = max(missing) + 31
        commits(LongHistory(below, start, without=frozenset(missing)), 1)
        later = decode_checkpoint(below.get(checkpoint_path(start + 1)), "here")
        assert later.version == start + 1
        assert len(later.milestones) == (1 if max(missing) == 1024 else 0)
        forget_memory(uri)


def test_a_history_nobody_remembers_is_not_read_by_a_commit(store: Store) -> None:
    """Versions of a writer that remembers nothing: a commit costs what it always does."""
    metered = MeteredStore(LongHistory(store, 5000, forgetful=True, without=frozenset(range(5001))))
    newest = commits(metered, 1)
    assert newest.history == ()
    newest = commits(metered, 40)
    assert [one.version for one in newest.history] == list(range(5025, 5041))
    assert not list(store.list(HISTORY))


@pytest.mark.parametrize("fault", list(Fault))
def test_a_checkpoint_that_cannot_be_written_fails_no_commit(store: Store, fault: Fault) -> None:
    """Whatever happens after the claim: the commit stands, and the history is found all the same."""
    for call in (3, 4, 5):  # after hint, probe and claim come hint, earlier checkpoint, checkpoint
        uri = f"memory://timeline-{uuid4().hex}"
        long = LongHistory(open_store(uri), 63)
        with suppress(SimulatedCrash):
            commits(FaultyStore(long, {call: fault}), 1)
        newest = commits(long, 3)
        assert newest.version == 67
        assert [one.version for one in history_of(VersionLog(long), newest)] == list(range(67, 0, -1))
        forget_memory(uri)


def test_a_long_summary_is_not_remembered_but_listed(store: Store) -> None:
    """An entry is at most 1,024 bytes. spec: IDN-21"""
    long = replace(bare_version(2), summary={"note": "x" * 2000}, writer_id="w" * 300)
    assert remembered(long).details is None
    assert remembered(bare_version(2)).details is not None
    table = lake.create("unused", SCHEMA, store=store)
    log, manifests = VersionLog(store), ManifestSet(store, uuid4)
    change = AddFragments(record=OperationRecord(kind="append"), summary=long.summary, fragments=())
    commit(log, manifests, table.snapshot.version, [change], still_surroundings(new_id=uuid4))
    commits(store, 2)
    assert [one["summary"][:7] for one in table.refresh().versions()][1] == "note=xx"
    assert [one.details is None for one in log.latest().history] == [False, True, False]


def test_the_golden_history_by_the_letter_of_the_specification() -> None:
    """The checkpoint and what versions remember, read without our code. spec: VER-9, VER-10, VER-11"""

    def unpacked(name: str, magic: bytes) -> dict[str, Any]:
        data = (GOLDEN / "_lake" / name).read_bytes()
        found, packed, length, crc = struct.unpack_from("<8sIII", data)
        assert (found, crc) == (magic, zlib.crc32(data[20 : 20 + packed]))
        text = pa.Codec("zstd").decompress(data[20 : 20 + packed], length, asbytes=True)
        value: dict[str, Any] = json.loads(text)
        return value

    versions = [unpacked(f"versions/{number:020d}.lake", b"LAKEVER0") for number in range(1, 36)]
    told = [
        {
            name: one[name]
            for name in ("version", "committed_at", "row_count", "commit_id", "writer_id", "summary")
        }
        | {"kinds": [record["kind"] for record in one["operations"]]}
        for one in versions
    ]
    checkpoint = unpacked(f"history/{32:020d}.lake", b"LAKEHIS0")
    assert checkpoint == {
        "table_id": versions[0]["table_id"],
        "version": 32,
        "entries": told[:32],
        "milestones": [],
    }
    assert [one.get("history", []) for one in versions] == [
        told[(number - 1) // 32 * 32 : number - 1] for number in range(1, 36)
    ]
    for number, one in enumerate(versions, 1):
        when = moment(one["committed_at"])
        assert lake.open(str(GOLDEN), as_of=when).version == number
    assert [one["version"] for one in lake.open(str(GOLDEN)).versions()] == list(range(1, 36))


# --- damage costs requests, never answers -------------------------------------------------------------------

DAMAGE = ["missing", "cut", "altered", "of another number", "of another table", "of another kind"]


def damaged(number: int, how: str) -> bytes:
    good = encoded_checkpoint(number)
    match how:
        case "cut":
            return good[: len(good) // 2]
        case "altered":
            return good[:40] + bytes([good[40] ^ 1]) + good[41:]
        case "of another number":
            return encoded_checkpoint(number + 32)
        case "of another table":
            return encode_checkpoint(replace(decode_checkpoint(good, "here"), table_id="another"))
    return encode_version(version_of(number))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_checkpoints_cost_requests_only(data: st.DataObject) -> None:
    """Any of them missing or damaged, versions that remember or not, expired or tagged ones. spec: IDN-21"""
    count = data.draw(st.integers(1, 2500))
    numbers = range(32, count + 1, 32)
    hit = data.draw(st.lists(st.sampled_from(numbers), max_size=6) if numbers else st.just([]))
    hit += data.draw(st.sampled_from([[], [one for one in (1024, 2048) if one <= count], list(numbers[-3:])]))
    how = {number: data.draw(st.sampled_from(DAMAGE)) for number in hit}
    uri = f"memory://timeline-{uuid4().hex}"
    store = LongHistory(
        open_store(uri),
        count,
        without=frozenset(hit),
        forgetful=data.draw(st.booleans()) and count < 300,
    )
    for number, kind in how.items():
        if kind != "missing":
            store.put(checkpoint_path(number), damaged(number, kind))
    log = VersionLog(store)
    horizon = data.draw(st.integers(0, count))
    tags = data.draw(st.lists(st.integers(1, count - 1), max_size=3)) if count > 1 else []
    newest = replace(log.read(count), horizon=horizon, refs={str(number): number for number in tags})
    kept = sorted({*range(max(horizon, 1), count + 1), *tags}, reverse=True)
    limit = data.draw(st.none() | st.integers(1, count + 5))
    assert [one.version for one in history_of(log, newest, limit)] == kept[:limit]
    wanted = data.draw(st.integers(max(horizon, 1), count))
    assert version_at(log, newest, time_of(wanted) + data.draw(st.integers(0, 59_999_999))).version == wanted
    forget_memory(uri)


def test_a_checkpoint_that_lies_is_found_out(store: Store) -> None:
    """Times that no version has: the version that is read says so, and versions are bisected."""
    long = LongHistory(store, 200)
    truth = decode_checkpoint(encoded_checkpoint(192), "here")
    early = tuple(replace(one, committed_at=one.committed_at - 10**9) for one in truth.entries)
    long.put(checkpoint_path(192), encode_checkpoint(replace(truth, entries=early)))
    for number in (2, 100, 191):
        assert version_at(VersionLog(long), version_of(200), time_of(number)).version == number


def test_what_a_version_remembers_wrongly_is_passed_over() -> None:
    """As of a writer that copied the field of its parent without knowing it. spec: IDN-21, TAB-4"""
    right = tuple(map(entry, range(33, 40)))
    late = (*right[:-1], replace(right[-1], committed_at=time_of(41)))
    swapped = (right[1], right[0], *right[2:])
    for wrong in (right[:-1], right[1:], (), (*right, entry(40)), late, swapped):
        bent = replace(version_of(40), history=wrong)
        assert decode_version(encode_version(bent), "here").history == ()
    assert decode_version(encode_version(version_of(40)), "here").history == right


@pytest.mark.parametrize(
    "change",
    [
        {"version": 65},
        {"version": 96},
        {"entries": tuple(map(entry, range(2, 65)))},
        {"entries": tuple(map(entry, [*range(1, 64), 64, 65]))},
        {"entries": tuple(replace(entry(at), committed_at=5) for at in range(1, 65))},
        {"table_id": 7},
        {"milestones": (encoded_checkpoint,)},
    ],
)
def test_what_is_no_checkpoint_is_refused(change: dict[str, Any]) -> None:
    good = decode_checkpoint(encoded_checkpoint(64), "here")
    if "milestones" in change:
        change = {"milestones": decode_checkpoint(encoded_checkpoint(1056), "here").milestones}
    with pytest.raises(CorruptionError, match="here is not a history checkpoint"):
        decode_checkpoint(encode_checkpoint(replace(good, **change)), "here")


def test_a_checkpoint_of_another_container_is_unsupported() -> None:
    data = encoded_checkpoint(32).replace(b"LAKEHIS0", b"LAKEHIS7")
    with pytest.raises(UnsupportedError, match="container version"):
        decode_checkpoint(data, "here")


def test_checkpoints_there_and_back() -> None:
    for number in (32, 64, 1024, 1056, 4096):
        found = decode_checkpoint(encoded_checkpoint(number), "here")
        assert found.version == number
        assert found.size == len(encoded_checkpoint(number))
        assert encode_checkpoint(found) == encoded_checkpoint(number)
        assert isinstance(found, Checkpoint)


@pytest.mark.parametrize("limit", [0, -1, True, "5"])
def test_a_limit_is_a_positive_whole_number(store: Store, limit: Any) -> None:
    table = lake.create("unused", SCHEMA, store=store)
    with pytest.raises(InvalidInputError, match="limit"):
        table.versions(limit=limit)
