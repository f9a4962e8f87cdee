"""Older versions: by number, by time, by tag; restored with everything they had and no counter turned back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import bare_version, still_surroundings

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.log import VersionLog
from lake_format.paths import version_path
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore
from lake_format.timeline import version_at

SCHEMA = pa.schema([pa.field("id", pa.int64(), False), ("v", pa.list_(pa.float32(), 4))])
START = 1_700_000_000


def rows(first: int, count: int) -> pa.Table:
    ids = np.arange(first, first + count)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype("f4")), 4)
    return pa.table([pa.array(ids), vectors], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://versions-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def make(store: Store, appends: int = 3) -> lake.Table:
    """A table with one commit a minute: version n has n - 1 times ten rows."""
    clock = iter(range(START, START + 6000, 60))
    around = still_surroundings(now=lambda: float(next(clock)), new_id=uuid4)
    table = lake.create("unused", SCHEMA, store=store, surroundings=around)
    for number in range(appends):
        table.append(rows(10 * number, 10))
    return table


def reopened(store: Store, **how: Any) -> lake.Table:
    return lake.open("unused", store=store, **how)


def ids_of(table: lake.Table) -> list[int]:
    ids: list[int] = table.to_arrow()["id"].to_pylist()
    return ids


# --- by time ------------------------------------------------------------------------------------------------


def test_a_time_names_the_version_that_was_current_then(store: Store) -> None:
    """spec: VER-1, VER-2"""
    make(store)
    begin = datetime.fromtimestamp(START, UTC)
    expected = {0: 1, 59: 1, 60: 2, 61: 2, 120: 3, 180: 4, 10**6: 4}
    for seconds, version in expected.items():
        moment = begin + timedelta(seconds=seconds)
        for when in (moment, moment.isoformat(), moment.astimezone(timezone(timedelta(hours=5.5)))):
            table = reopened(store, as_of=when)
            assert table.version == version
            assert table.count() == 10 * (version - 1)
            with pytest.raises(UnsupportedError, match="cannot be written"):
                table.append(rows(0, 1))
    with pytest.raises(NotFoundError, match="no table at"):
        reopened(store, as_of=begin - timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("2026-01-01T00:00:00", "no time zone"),
        ("2026-01-01", "no time zone"),
        (datetime(2026, 1, 1), "no time zone"),
        ("yesterday", "no moment"),
        (1_700_000_000, "no moment"),
    ],
)
def test_a_moment_without_a_zone_is_refused(store: Store, when: Any, said: str) -> None:
    """spec: VER-1"""
    make(store, 0)
    with pytest.raises(InvalidInputError, match=said):
        reopened(store, as_of=when)


def test_only_one_way_to_name_a_version(store: Store) -> None:
    make(store, 1)
    with pytest.raises(InvalidInputError, match="one of version, as_of and tag"):
        reopened(store, version=1, tag="x")
    with pytest.raises(InvalidInputError, match="positive whole number"):
        reopened(store, version=0)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.data())
@settings(max_examples=40)
def test_any_moment_of_any_history(gaps: list[int], data: st.DataObject) -> None:
    """The bisection finds what a walk over all versions finds, in few requests. spec: VER-2, COM-8"""
    times = np.cumsum(gaps).tolist()
    uri = f"memory://versions-{uuid4().hex}"
    store = open_store(uri)
    versions = [replace(bare_version(number), committed_at=at) for number, at in enumerate(times, 1)]
    for one in versions:
        store.create(version_path(one.version), encode_version(one))
    metered = MeteredStore(store)
    moment = data.draw(st.integers(times[0], times[-1] + 5))
    found = version_at(VersionLog(metered), versions[-1], moment)
    assert found.version == sum(at <= moment for at in times)
    assert metered.usage().total_requests <= len(times).bit_length()
    forget_memory(uri)


# --- tags ---------------------------------------------------------------------------------------------------


def test_a_tag_names_a_version_until_it_is_moved_or_removed(store: Store) -> None:
    """spec: VER-3, VER-4"""
    table = make(store)
    table.tag("raw/v1.0", 2).tag("now")
    assert table.tags() == reopened(store).tags() == {"now": 5, "raw/v1.0": 2}
    assert ids_of(reopened(store, tag="raw/v1.0")) == ids_of(table.checkout("raw/v1.0")) == list(range(10))
    table.append(rows(30, 10))
    table.tag("raw/v1.0", 2)  # what it names already
    with pytest.raises(AlreadyExistsError, match=r"'raw/v1.0' names version 2"):
        table.tag("raw/v1.0", 3)
    table.tag("raw/v1.0", "now", move=True).delete_tag("now")
    assert table.tags() == {"raw/v1.0": 5}
    for gone in (lambda: reopened(store, tag="now"), lambda: table.delete_tag("now")):
        with pytest.raises(NotFoundError, match=r"no tag 'now'.*raw/v1.0"):
            gone()
    assert table.checkout(4).tags() == {}
    assert table.count() == 40


def test_what_cannot_be_tagged(store: Store) -> None:
    """spec: VER-3"""
    table = make(store)
    for name in ("", "a b", "-x", "x" * 129, 7, None):
        with pytest.raises(InvalidInputError, match="name of a tag"):
            table.tag(name)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no version 9 yet"):
        table.tag("x", 9)
    with pytest.raises(UnsupportedError, match="cannot be written"):
        table.checkout(2).tag("x")
    assert reopened(store).version == 4  # nothing was committed


def test_tags_do_not_stand_in_the_way_of_others(store: Store) -> None:
    """Set by two at once: other names commute, the same name is a conflict. spec: VER-4"""
    first = make(store)
    second, third = reopened(store), reopened(store)
    first.tag("x", 2)
    second.append(rows(30, 10))
    third.tag("y", 3)
    assert third.tags() == {"x": 2, "y": 3}
    assert third.count() == 40
    fourth = reopened(store)
    third.tag("x", 4, move=True)
    with pytest.raises(ConflictError, match="same name"):
        fourth.tag("x", 3, move=True)


@pytest.mark.parametrize("refs", [{"x": 3}, {"x": 0}, {"x": "1"}, {"x": True}])
def test_a_tag_must_name_an_earlier_version(refs: Any) -> None:
    """spec: VER-3"""
    with pytest.raises(CorruptionError):
        decode_version(encode_version(replace(bare_version(3), refs=refs)), "here")


# --- restore ------------------------------------------------------------------------------------------------


def test_restore_brings_back_rows_and_turns_no_counter_back(store: Store) -> None:
    """spec: VER-5, IDN-2"""
    table = make(store)
    before = table.checkout(2)
    table.restore(2)
    assert table.version == 5
    assert table.to_arrow().equals(before.to_arrow())
    table.append(rows(100, 3))
    added = table.scan(["id", "_row_id"], where="id >= 100").read_all()
    assert added["_row_id"].to_pylist() == [30, 31, 32]
    assert [one["operation"] for one in table.versions()][-2:] == ["restore", "append"]
    again = reopened(store).restore(4)
    assert ids_of(again) == list(range(30))
    assert again.take([25])["id"].to_pylist() == [25]


def test_restore_brings_back_schema_and_index(store: Store) -> None:
    """spec: VER-5"""
    table = make(store, 1)
    table.append(rows(10, 500)).create_index("v", lists=4)
    found = table.search([77.0] * 4, k=3, select=["id", "_distance"])
    indexed = table.version
    table.drop_column("v")
    table.restore(indexed)
    assert table.schema.names == ["id", "v"]
    again = table.search([77.0] * 4, k=3, select=["id", "_distance"])
    assert again.to_arrow().equals(found.to_arrow())
    assert [one["name"] for one in table.inspect.indexes().to_pylist()] == ["v_l2"]


def test_restore_undoes_nothing_unseen(store: Store) -> None:
    """A row appended meanwhile is a conflict; a tag is not. spec: VER-5"""
    table = make(store)
    other = reopened(store)
    other.tag("t", 3)
    table.restore("t")
    assert table.count() == 20
    stale = reopened(store)
    other.refresh().append(rows(50, 1))
    with pytest.raises(ConflictError):
        stale.restore(2)
    assert reopened(store).count() == 21
    late = reopened(store)
    table.refresh().restore(2)
    with pytest.raises(ConflictError):
        late.append(rows(60, 1))
