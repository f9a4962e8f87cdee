"""Columns with values and backfills: what is written and what readers see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from backfill_samples import SCHEMA, batch, column, make
from conftest import Location

import lake_format as lake
from lake_format.errors import (
    InvalidInputError,
    LakeError,
    NotFoundError,
)
from lake_format.expressions import sql
from lake_format.store.metered import MeteredStore


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location)


@pytest.mark.parametrize(
    ("type_", "values", "expected", "options"),
    [
        (None, 7, lambda i: 7, {}),
        (None, "text", lambda i: "text", {}),
        (pa.int8(), 7, lambda i: 7, {}),
        (None, pa.scalar(1.5, pa.float32()), lambda i: 1.5, {}),
        (pa.list_(pa.float32(), 2), [1, 2], lambda i: [1, 2], {}),
        (pa.struct([("a", pa.int8())]), {"a": 1}, lambda i: {"a": 1}, {}),
        (None, sql("id * 2 + 1"), lambda i: i * 2 + 1, {}),
        (pa.int64(), sql("CAST(price AS DOUBLE) * 4"), lambda i: i, {}),
        (pa.float32(), sql("id"), float, {}),
        (None, sql("coalesce(upper(name), 'none')"), lambda i: "none" if i % 5 == 4 else f"NAME {i % 3}", {}),
        (None, sql("id > 3 AND price < 2"), lambda i: 3 < i < 8, {}),
        (None, sql("_row_id"), lambda i: i, {}),
        (pa.int64(), pc.field("id") * 3, lambda i: i * 3, {}),
        (pa.string(), pc.utf8_upper(pc.field("name")), lambda i: None if i % 5 == 4 else f"NAME {i % 3}", {}),
        (pa.int64(), lambda rows: pc.add(rows["id"], 1), lambda i: i + 1, {}),
        (pa.float64(), lambda rows: rows["price"].to_numpy() * 2, lambda i: i / 2, {"inputs": ["price"]}),
        (pa.string(), lambda rows: [str(one) for one in rows["id"].to_pylist()], str, {"inputs": ["id"]}),
        (
            pa.list_(pa.float32(), 2),
            lambda rows: np.stack([rows["id"].to_numpy()] * 2, axis=1),
            lambda i: [i, i],
            {"inputs": ["id"]},
        ),
        (None, pa.table({"_row_id": [3, 1], "new": ["x", "y"]}), {3: "x", 1: "y"}.get, {}),
        (None, pa.table({"id": [19, 0, 77], "z": [5, 6, 7]}), {19: 5, 0: 6}.get, {"on": "id"}),
        (
            None,
            pa.table({"name": ["name 1", "name 2"], "new": [1.5, None]}),
            lambda i: 1.5 if i % 3 == 1 and i % 5 != 4 else None,
            {"on": "name"},
        ),
        (
            None,
            lambda: pa.table({"id": [2], "new": [b"b"]}).to_reader(),
            {2: b"b"}.get,
            {"on": "id", "made": True},
        ),
    ],
)  # fmt: skip
def test_a_column_with_values(
    table: lake.Table, type_: Any, values: Any, expected: Callable[[int], Any], options: dict[str, Any]
) -> None:
    """spec: EVO-6 — every way to say values, over several fragments."""
    if options.pop("made", False):
        values = values()
    before = table.to_arrow()
    table.add_column("new", type_, values, **options)
    assert column(table, "new") == {i: expected(i) for i in range(20)}
    assert table.to_arrow().drop(["new"]).equals(before)
    assert table.versions()[-1]["operation"] == "add_column"
    table.append(batch(100))
    assert column(table, "new")[100] is None
    picked = table.take([20, 3])["new"].to_pylist()
    assert picked == [None, expected(3)]
    assert table.count("new IS NOT NULL") == sum(expected(i) is not None for i in range(20))


def test_only_the_new_column_is_written(memory_location: Location) -> None:
    """spec: EVO-6 — bytes written are those of the new column, however wide the others are."""
    store = MeteredStore(memory_location.store())
    wide = pa.schema([("id", pa.int64()), ("text", pa.string()), ("v", pa.list_(pa.float32(), 512))])
    table = lake.create(memory_location.uri, wide, store=store, properties={"write.fragment-rows": 1000})
    ids = np.arange(4000)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4000 * 512, np.float32)), 512)
    table.append(pa.table({"id": ids, "text": [f"{one}" * 50 for one in ids], "v": vectors}))
    files = {info.path: info.modified_at for info in store.list("data/")}

    def spent(action: Callable[[], Any]) -> int:
        before = store.usage()
        action()
        return store.usage().since(before).bytes_written

    random = np.random.default_rng(0).integers(0, 1 << 40, 4000)
    noise = pa.table({"_row_id": ids, "n": random})
    assert spent(lambda: table.add_column("n", values=noise)) < 4000 * 8 + 4 * 4000 + 20_000
    new = {info.path for info in store.list("data/")} - files.keys()
    assert len(new) == 4
    assert spent(lambda: table.backfill("n", sql("id"))) < 4000 * 8 + 4 * 4000 + 20_000
    changed = spent(lambda: table.backfill("n", 5, "id < 10"))
    assert changed < 1000 * 8 + 30_000  # one fragment of four, and two copies of the version object
    one_vector_column = spent(
        lambda: table.add_column("w", pa.list_(pa.float32(), 2), lambda b: [[1, 2]] * len(b), inputs=["id"])
    )
    assert 4000 * 8 < one_vector_column < 4000 * 8 + 4 * 4000 + 20_000
    after = {info.path: info.modified_at for info in store.list("data/")}
    assert all(after[path] == at for path, at in files.items())
    assert column(table, "n") == {int(i): 5 if i < 10 else int(i) for i in ids}


def test_required_columns_need_values(table: lake.Table) -> None:
    table.delete("id IN (0, 1, 2, 7)")
    table.delete("id >= 12 AND id < 18")  # a fragment without a row left
    table.add_column("must", pa.int64(), sql("id + 1"), nullable=False)
    assert column(table, "must") == {i: i + 1 for i in range(20) if i not in {0, 1, 2, 7, *range(12, 18)}}
    assert not table.schema.field("must").nullable
    with pytest.raises(InvalidInputError, match="must not be NULL"):
        table.append(batch(50))
    with pytest.raises(InvalidInputError, match="must not be NULL"):
        table.add_column("other", pa.string(), sql("name"), nullable=False)
    with pytest.raises(InvalidInputError, match="have no value"):
        table.add_column("other", values=pa.table({"_row_id": [3], "x": [1]}), nullable=False)
    with pytest.raises(InvalidInputError, match="must not be NULL"):
        table.backfill("must", None)
    assert table.refresh().schema.names == [*SCHEMA.names, "must"]


def test_required_with_deleted_rows_in_front(memory_location: Location) -> None:
    """Deleted rows have no value; a column that forbids NULL repeats another one there, nobody sees it."""
    table = make(memory_location, rows=0)
    rows = 150_000
    ids = pa.array(np.arange(rows), pa.int32())
    table = lake.create(memory_location.uri + "2", pa.schema([("id", pa.int32())]))
    table.append(pa.table({"id": ids}))
    table.delete("id < 140000")
    table.add_column("must", pa.string(), lambda b: [f"{one}" for one in b["id"].to_pylist()], nullable=False)
    assert column(table, "must") == {i: f"{i}" for i in range(140_000, rows)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"type": pa.int8(), "values": sql("id * 1000")}, "cannot take"),
        ({"type": pa.int8(), "values": "x"}, "column 'n'"),
        ({"values": sql("nope + 1")}, "there is no column 'nope'"),
        ({"type": pa.int8(), "values": sql("n + 1")}, "cannot be made of the column itself"),
        ({"values": lambda rows: rows["id"]}, "type of column 'n' is missing"),
        ({"type": pa.int8(), "values": lambda rows: [1]}, "gave 1 values for"),
        ({"type": pa.int32(), "values": lambda rows: rows["id"], "inputs": ["nope"]}, "no column 'nope'"),
        ({"values": pa.table({"key": [1], "n": [2]})}, "have no column '_row_id'"),
        ({"values": pa.table({"_row_id": [1], "a": [2], "b": [3]})}, "is missing|no column 'n'"),
        ({"values": pa.table({"_row_id": [1, 1], "n": [2, 3]})}, "key 1 occurs more than once"),
        ({"values": pa.table({"id": [1, None], "n": [2, 3]}), "on": "id"}, "has NULLs"),
        ({"values": 5, "on": "id"}, "is for Arrow data"),
        ({"values": {"a": 1}, "type": pa.int8()}, "column 'n'"),
    ],
)
def test_values_that_do_not_fit(table: lake.Table, arguments: dict[str, Any], message: str) -> None:
    store = table.snapshot.store
    before, version = [info.path for info in store.list("data/")], table.version
    with pytest.raises(InvalidInputError, match=message):
        table.add_column("n", **arguments)
    assert [info.path for info in store.list("data/")] == before
    assert table.refresh().version == version


def test_row_ids_that_are_not_there(table: lake.Table) -> None:
    table.delete("id = 3")
    with pytest.raises(NotFoundError, match="2 of 3 row ids to join have no row in version 3: 3, 99"):
        table.add_column("n", values=pa.table({"_row_id": [3, 4, 99], "n": [1, 2, 3]}))


@pytest.mark.parametrize("values", [pa.array(range(20)), np.arange(20)])
def test_values_that_do_not_say_for_which_rows(table: lake.Table, values: object) -> None:
    with pytest.raises(InvalidInputError, match="the 20 values for column 'n' do not say which rows"):
        table.add_column("n", values=values)


# --- backfills ----------------------------------------------------------------------------------------------------


def test_a_backfill_of_all_and_of_some_rows(table: lake.Table) -> None:
    """spec: EVO-6"""
    table.add_column("n", pa.int64())
    table.backfill("n", sql("id * 10"), "id % 2 = 0 AND id < 15")
    expected = {i: i * 10 if i % 2 == 0 and i < 15 else None for i in range(20)}
    assert column(table, "n") == expected
    table.append(batch(20, 21))
    table.backfill("n", -1, "n IS NULL")
    expected |= {i: -1 for i, value in expected.items() if value is None} | {20: -1, 21: -1}
    assert column(table, "n") == expected
    table.backfill("n", pa.table({"id": [4, 21], "x": [400, None]}), on="id")
    assert column(table, "n") == {**expected, 4: 400, 21: None}
    table.backfill("n", sql("n + 1"), "n IS NOT NULL")
    table.backfill("n", None, "id = 0")
    after = {**expected, 4: 400, 21: None}
    assert column(table, "n") == {i: None if v is None or i == 0 else v + 1 for i, v in after.items()}
    assert table.count("n = 401") == 1
    assert table.count("n IS NULL") == 2
    before = table.version
    table.backfill("n", 1, "id > 1000")
    assert table.version == before


def test_a_column_among_others_leaves_its_file(table: lake.Table) -> None:
    """spec: EVO-6 — the old file keeps the column, which nobody reads there any more."""
    table.backfill("price", sql("price + 1"), "id < 3")
    files = table.inspect.files().to_pylist()
    first = [one["columns"] for one in files if one["fragment_id"] == 0]
    assert sorted(first) == [["id", "name"], ["price"], ["v"]]
    assert ["id", "name", "price"] in [one["columns"] for one in files if one["fragment_id"] == 1]
    assert "superseded-columns" in table.snapshot.version.required_features
    assert column(table, "price") == {i: i / 4 + (i < 3) for i in range(20)}
    table.backfill("price", 0).backfill("id", sql("id")).backfill(
        "name", "x"
    )  # nothing of the old file is left
    again = lake.open(table.uri)
    for fragment in again.snapshot.fragments.fragments():
        held = [one for group in fragment.groups for one in group.live_field_ids]
        assert len(held) == len(set(held)) == 4
        assert all(group.live_field_ids for group in fragment.groups)
    assert again.to_arrow().to_pylist()[5] == {"id": 5, "name": "x", "price": 0, "v": [5, 0, 0, 1]}


def test_backfilled_vectors_are_found_at_their_new_place(table: lake.Table) -> None:
    table.create_index("v").add_column("w", pa.list_(pa.float32(), 4), sql("v"))
    table.create_index("w")
    table.backfill(
        "v", lambda rows: [[100 + one, 0, 0, 0] for one in rows["id"].to_pylist()], "id >= 10", inputs=["id"]
    )
    found = table.search(
        [[3, 0, 0, 1], [115, 0, 0, 0], [15, 0, 0, 1]], 1, column="v", select=["id"]
    ).to_arrow()
    assert found["id"].to_pylist() == [3, 115 - 100, 9]
    assert table.search([15, 0, 0, 1], 1, column="w", select=["id"]).to_arrow()["id"].to_pylist() == [15]


def test_keys_are_not_backfilled_or_dropped(memory_location: Location) -> None:
    table = lake.create(memory_location.uri, SCHEMA, key=["id"]).append(batch(1, 2))
    for action in (
        lambda: table.backfill("id", 1),
        lambda: table.drop_column("id"),
        lambda: table.alter_column("id", nullable=True),
        lambda: table.widen_column("id", pa.float64()),
    ):
        with pytest.raises(InvalidInputError, match="part of the table's key"):
            action()
    table.rename_column("id", "key").widen_column("key", pa.int64())
    with pytest.raises(LakeError, match="2"):
        table.append(batch(2).rename_columns(["key", "name", "price", "v"]))
    assert table.count() == 2
