"""Manifests left out of a plan by what the version says of them: never one that matters, whatever was done before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_upkeep_verify import rewritten

import lake_format as lake
from lake_format import manifest_bounds, manifest_set, snapshot
from lake_format.codec import decode_version, encode_version
from lake_format.errors import CorruptionError, NotFoundError
from lake_format.model import Version
from lake_format.store import Store, open_store

SCHEMA = pa.schema([("id", pa.int64()), ("n", pa.int32()), ("f", pa.float32()), ("s", pa.string())])


@contextmanager
def every_manifest_counts() -> Iterator[None]:
    """Each commit's manifest is an object of its own, told of as a whole, and left out wherever it can be."""
    with ExitStack() as patches:
        for module, name, value in (
            (manifest_set, "INLINE_BYTES", 1),
            (manifest_bounds, "SUMMARISED", 1),
            (snapshot, "_LARGE", 1),
            (snapshot, "_NARROWINGS", 1 << 30),
        ):
            patches.enter_context(mock.patch.object(module, name, value))
        yield


def rows(first: int, count: int = 6) -> pa.Table:
    ids = list(range(first, first + count))
    return pa.table(
        {
            "id": ids,
            "n": [i % 5 if i % 4 else None for i in ids],
            "f": [float("nan") if i % 5 == 1 else i / 4 for i in ids],
            "s": [("ä" * (i % 50) + str(i)) if i % 3 else None for i in ids],
        },
        SCHEMA,
    )


FILTERS = [
    "id < 9", "id BETWEEN 10 AND 13", "NOT id <> 17", "n IS NULL AND id > 20", "n = 3 OR id = 2", "f > 4",
    "NOT f < 4", "f <> 2", "s > 'ä'", "s IS NULL", "s LIKE 'äää%'", "_row_id IN (3, 14, 40)", "_row_id >= 12",
    "extra = 7", "extra IS NULL", "extra > 7", "id + 0 = 5",
]  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 9)),
    st.tuples(st.just("delete"), st.integers(2, 7)),
    st.tuples(st.just("update"), st.integers(2, 7)),
    st.tuples(st.just("move"), st.integers(2, 7)),
    st.tuples(st.just("compact"), st.integers(5, 40)),
    st.tuples(st.just("widen"), st.just(0)),
    st.tuples(st.just("restore"), st.integers(1, 4)),
)


def carry_out(table: lake.Table, step: tuple[str, int], following: int) -> None:
    match step:
        case ("append", count):
            table.append(rows(following, count))
        case ("delete", number):
            table.delete(f"id % {number} = 1")
        case ("update" | "move" as how, number):
            table.set_properties({"write.update-strategy": "move" if how == "move" else "auto"})
            table.update({"n": 100 * number, "s": "new"}, where=f"id % {number} = 0")
        case ("compact", number):
            table.compact(target_rows=number, deleted_share=0.2)
        case ("widen", _) if table.schema.field("n").type == pa.int32():
            table.widen_column("n", pa.float64())
        case ("restore", back):
            table.restore(max(2, table.version - back))


@settings(max_examples=12, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=7))
def test_what_is_left_out_holds_nothing_that_was_asked_for(steps: list[tuple[str, int]]) -> None:
    """spec: TAB-8, STAT-6, STAT-7, STAT-8"""
    store = open_store(f"memory://bounds-{uuid4().hex}")
    with every_manifest_counts():
        table = lake.create("unused", SCHEMA, store=store).append(rows(0)).append(rows(6))
        table.add_column("extra", pa.int64(), values=7)
        for number, step in enumerate(steps):
            carry_out(table, step, 12 + 9 * number)
        assert table.verify(data=False).ok
        fresh = lake.open("unused", store=store)
        whole = lake.open("unused", store=store)
        everything = whole.scan(["_row_id", "id"]).read_all()
        assert "fragments" in whole.snapshot.__dict__
        for where in FILTERS if "extra" in table.schema.names else [w for w in FILTERS if "extra" not in w]:
            expected = whole.scan(["_row_id"], where).read_all()["_row_id"].to_pylist()
            assert fresh.scan(["_row_id"], where).read_all()["_row_id"].to_pylist() == expected, where
            assert fresh.count(where) == len(expected), where
        for row in everything.to_pylist():
            assert fresh.take([row["_row_id"]], ["id"])["id"].to_pylist() == [row["id"]]
        with pytest.raises(NotFoundError, match="12345"):
            fresh.take([12345])


@pytest.fixture
def store() -> Iterator[Store]:
    """A table of six stored manifests."""
    made = open_store(f"memory://bounds-{uuid4().hex}")
    with every_manifest_counts():
        table = lake.create("unused", SCHEMA, store=made)
        for first in range(0, 60, 10):
            table.append(rows(first, 10))
        yield made


def test_a_version_tells_row_ids_and_bounds_of_its_manifests(store: Store) -> None:
    """spec: TAB-8"""
    table = lake.open("unused", store=store)
    references = table.snapshot.version.manifests
    assert [one.row_ids for one in references] == [(first, first + 9) for first in range(0, 60, 10)]
    assert {field for field, _, _ in references[0].bounds} == {1, 2, 3, 4}
    assert table.count("id = 25") == 1
    assert table.take([7, 44], ["id"])["id"].to_pylist() == [7, 44]
    assert "fragments" not in table.snapshot.__dict__
    assert (
        len(table.snapshot.narrowed(np.array([one.row_ids == (20, 29) for one in references])).fragments) == 1
    )


def test_whoever_looks_again_and_again_gets_all_of_them(store: Store) -> None:
    table = lake.open("unused", store=store)
    with mock.patch.object(snapshot, "_NARROWINGS", 3):
        for number in range(5):
            assert table.count(f"id = {number}") == 1
    assert "fragments" in table.snapshot.__dict__


def _first(version: Version, **changes: Any) -> Version:
    return replace(version, manifests=(replace(version.manifests[0], **changes), *version.manifests[1:]))


def _bounds(version: Version) -> Version:
    (field, lower, _), *others = version.manifests[0].bounds
    return _first(version, bounds=((field, lower, lower), *others))


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda version: _first(version, row_ids=(0, 8)), "row ids do not lie between 0 and 8"),
        (_bounds, "values of field 1 do not lie"),
        (lambda version: _first(version, bounds=((99, b"", b""),)), "nothing is known of field 99"),
    ],
)
def test_verify_finds_what_is_said_wrongly(store: Store, edit: Any, what: str) -> None:
    """spec: UPK-8, TAB-8"""
    table = rewritten(store, edit)
    [problem] = table.verify(data=False).problems
    assert what in problem.what
    assert problem.path == table.snapshot.version.manifests[0].path


@pytest.mark.parametrize(
    "raw",
    [
        *({"row_ids": one} for one in ([5], [5, 4], [-1, 4], "x", [0, 2**63])),
        *({"bounds": one} for one in ([[1, "", ""], 5], [[1, "*", ""]], [["1", "", ""]], 5)),
    ],
)
def test_anything_else_there_is_corruption(store: Store, raw: dict[str, Any]) -> None:
    """spec: TAB-8"""
    version = lake.open("unused", store=store).snapshot.version
    from lake_format import codec

    told = codec._manifest_to_json

    with mock.patch.object(codec, "_manifest_to_json", lambda one: {**told(one), **raw}):
        data = encode_version(version)
    with pytest.raises(CorruptionError):
        decode_version(data, "here")
