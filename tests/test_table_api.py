"""The table as users and other libraries hold it: reads, writes, search results, and every method of a Dataset."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pytest
from conftest import Location
from stores.faulty import Fault, FaultyStore

import lake_format as lake
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.store import open_store
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("price", pa.float64()),
        ("tag", pa.string()),
        ("v", pa.list_(pa.float32(), 4)),
    ]
)


def data(rows: int = 100, first: int = 0) -> pa.Table:
    ids = np.arange(first, first + rows)
    vectors = np.repeat(ids.astype("f4"), 4)
    tags = [None if i % 5 == 0 else "abc"[i % 3] for i in ids.tolist()]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)
    return pa.table([pa.array(ids), pa.array(ids / 4), pa.array(tags), column], SCHEMA)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> lake.Table:
    """100 rows in two commits, and an index. No test writes to it."""
    uri = str(tmp_path_factory.mktemp("api") / "t")
    made = lake.create(uri, SCHEMA).append(data(60)).create_index("v").append(data(40, 60))
    return lake.open(made.uri)


# --- reading --------------------------------------------------------------------------------------------------


def test_what_a_table_says_of_itself(table: lake.Table) -> None:
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert (table.count(), table.version, table.properties) == (100, 4, {})
    assert repr(table) == f"Table({table.uri!r}, version=4, rows=100)"
    history = table.versions()
    assert [entry["operation"] for entry in history] == ["create", "append", "create_index", "append"]
    assert [entry["rows"] for entry in history] == [0, 60, 60, 100]


def test_metadata_as_tables(table: lake.Table) -> None:
    look = table.inspect
    assert look.fragments().column("rows").to_pylist() == [60, 40]
    assert look.fragments().column("first_row_id").to_pylist() == [0, 60]
    assert set(look.files().column("format").to_pylist()) == {"parquet"}, "small files are Parquet"
    assert pc.sum(look.manifests().column("rows")).as_py() == 100
    (index,) = look.indexes().to_pylist()
    assert (index["name"], index["column"], index["metric"], index["rows"]) == ("v_l2", "v", "l2", 60)
    for found in (look.versions(), look.fragments(), look.files(), look.manifests(), look.indexes()):
        assert isinstance(found, pa.Table)


def test_columns_filters_and_limits(table: lake.Table) -> None:
    found = table.scan(["tag", "_row_id"], "price >= 20 AND tag IS NOT NULL", limit=3).read_all()
    assert found.to_pylist() == [{"tag": "abc"[i % 3], "_row_id": i} for i in (81, 82, 83)]
    assert table.scan([]).read_all().num_rows == 100
    assert table.scan(limit=0).read_all().num_rows == 0
    assert table.count(pc.field("id") > 89) == table.count("id > 89") == 10
    assert table.count("_row_id IN (3, 99, 100)") == 2


def test_a_scan_is_lazy(tmp_path: Path) -> None:
    """What is not read is not fetched."""
    lake.create(str(tmp_path / "t"), SCHEMA, properties={"write.fragment-rows": 500}).append(data(5000))
    metered = MeteredStore(FaultyStore(open_store(str(tmp_path / "t"))))
    table = lake.open("unused", store=metered)
    reader = table.scan()
    reader.read_next_batch()
    early = metered.usage().bytes_read
    reader.read_all()
    assert early < metered.usage().bytes_read / 3


def test_pruning_reads_only_what_may_match(tmp_path: Path) -> None:
    lake.create(str(tmp_path / "t"), SCHEMA, properties={"write.fragment-rows": 500}).append(data(5000))
    metered = MeteredStore(FaultyStore(open_store(str(tmp_path / "t"))))
    table = lake.open("unused", store=metered)
    assert table.scan(["id"], "id = 42").read_all().column("id").to_pylist() == [42]
    one = metered.usage().bytes_read
    assert table.scan(["id"], "id >= 0").read_all().num_rows == 5000
    assert one < metered.usage().bytes_read / 4


def test_two_requests_open_a_table_however_many_versions(tmp_path: Path) -> None:
    """spec: COM-6"""
    lake.create(str(tmp_path / "t"), SCHEMA)
    for number in range(12):
        lake.open(str(tmp_path / "t")).append(data(1, number))
    metered = MeteredStore(open_store(str(tmp_path / "t")))
    table = lake.open("unused", store=metered)
    assert (table.version, metered.usage().requests) == (13, {"get": 2})
    table.refresh()
    assert metered.usage().requests == {"get": 3}
    table.scan(["id"]).read_all()
    assert metered.usage().requests.get("list") is None  # and nothing is ever listed to read


def test_take_keeps_order_and_repeats(table: lake.Table) -> None:
    wanted = [99, 0, 61, 61, 5]
    for row_ids in (wanted, np.array(wanted), pa.array(wanted), pa.chunked_array([wanted[:2], wanted[2:]])):
        assert table.take(row_ids).to_pylist() == data().take(wanted).to_pylist()
    found = table.take([7, 3], ["_row_id", "tag"])
    assert found.to_pylist() == [{"_row_id": 7, "tag": "b"}, {"_row_id": 3, "tag": "a"}]


# --- search ---------------------------------------------------------------------------------------------------


def test_one_query_and_a_batch(table: lake.Table) -> None:
    one = table.search([3.2] * 4, k=3)
    found = one.to_arrow()
    assert found.column_names == [*SCHEMA.names, "_row_id", "_distance"]
    assert found.column("id").to_pylist() == [3, 4, 2]
    np.testing.assert_allclose(found.column("_distance").to_numpy(), [0.4, 1.6, 2.4], rtol=1e-5)
    batch = table.search(np.array([[3.2] * 4, [70.0] * 4]), k=2, select=["id", "_distance"])
    assert batch.to_arrow().column_names == ["_query", "id", "_distance"]
    assert batch.to_arrow().column("_query").to_pylist() == [0, 0, 1, 1]
    assert batch.to_arrow().column("id").to_pylist()[::2] == [3, 70]
    assert table.search([[3.2] * 4], k=1).to_arrow().column_names[0] == "_query"


def test_results_in_every_form(table: lake.Table) -> None:
    result = table.search([3.2] * 4, k=2, select=["id", "_distance"])
    assert result.to_pandas()["id"].tolist() == [3, 4]
    assert [row["id"] for row in result.to_pylist()] == [3, 4]
    assert pl.DataFrame(result)["id"].to_list() == [3, 4]
    assert duckdb.sql(
        "SELECT sum(id) FROM found", connection=duckdb.connect().register("found", result)
    ).fetchall() == [(7,)]
    assert len(result) == 2
    assert "SearchResult(2 rows" in repr(result)


def test_explain_says_what_was_done(table: lake.Table) -> None:
    indexed = table.search([3.2] * 4)
    assert indexed.plan["metric"] == "l2"
    assert "strategy" in indexed.explain() or "index" in indexed.explain()
    exact = table.search([3.2] * 4, exact=True)
    assert exact.plan["strategy"] == "exact"
    assert exact.plan["rows compared exactly"] == 100
    assert "asked for" in exact.explain()


@pytest.mark.parametrize("form", [list, np.array, pa.array, pa.scalar, lambda v: np.array(v, np.float64)])
def test_queries_in_every_form(form: Any, table: lake.Table) -> None:
    assert table.search(form([3.2] * 4), k=1).to_pylist()[0]["id"] == 3
    assert table.search(table.take([3]).column("v"), k=1).to_pylist()[0]["id"] == 3


def test_metrics_and_zero_vectors(tmp_path: Path) -> None:
    """A zero vector has no direction: under cosine its distance is NaN, and it comes last."""
    vectors = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], None]
    schema = pa.schema([("v", pa.list_(pa.float32(), 2))])
    table = lake.create(str(tmp_path / "t"), schema).append(
        pa.table({"v": pa.array(vectors, schema.types[0])})
    )
    expected = {"l2": [1, 0, 2, 3], "cosine": [1, 2, 3, 0], "ip": [1, 0, 2, 3]}
    for indexed in (False, True):
        for metric, order in expected.items():
            if indexed:
                table.create_index("v", metric)
            found = table.search([1.0, 0.0], k=9, metric=metric, select=["_row_id", "_distance"]).to_arrow()
            assert found.column("_row_id").to_pylist() == order, (indexed, metric)
            distances = found.column("_distance").to_numpy()
            wanted = {"l2": [0, 1, 5**0.5, 4], "cosine": [0, 1, 2, np.nan], "ip": [-1, 0, 0, 3]}[metric]
            np.testing.assert_allclose(distances, wanted, rtol=1e-6, atol=1e-7)


def test_a_filtered_search(table: lake.Table) -> None:
    found = table.search([50.0] * 4, k=3, where="tag = 'a' AND id > 60", select=["id"]).to_arrow()
    wanted = [i for i in range(61, 100) if i % 3 == 0 and i % 5][:3]
    assert found.column("id").to_pylist() == wanted
    assert len(table.search([50.0] * 4, k=3, where="id > 1000")) == 0


# --- writing --------------------------------------------------------------------------------------------------


class _Capsule:
    """Something that only speaks the Arrow C stream interface."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)


def _forms(rows: pa.Table) -> dict[str, Any]:
    lists = rows.to_pylist()
    return {
        "table": rows,
        "batch": rows.combine_chunks().to_batches()[0],
        "batches": iter(rows.to_batches(max_chunksize=3)),
        "reader": rows.to_reader(max_chunksize=4),
        "capsule": _Capsule(rows),
        "dataset": ds.dataset(rows),
        "pandas": pd.DataFrame(
            {"id": rows["id"].to_pandas(), "tag": rows["tag"].to_pandas(), "v": [r["v"] for r in lists]}
        ),
        "polars": pl.from_arrow(rows),
        "duckdb": duckdb.connect().from_arrow(rows),
        "dictionaries": lists,
        "generator": (row for row in lists),
        "columns": {name: rows[name] for name in rows.column_names},
        "numpy vectors": {"id": np.arange(len(lists)), "v": [np.full(4, i, "f4") for i in range(len(lists))]},
        "tables": [rows.slice(0, 5), rows.slice(5)],
        "fewer columns, another order": rows.select(["v", "id"]),
    }


@pytest.mark.parametrize("form", sorted(_forms(data(1))))
def test_rows_in_every_form(form: str, tmp_path: Path) -> None:
    rows = data(10)
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(_forms(rows)[form])
    found = table.to_arrow()
    assert found.select(["id", "v"]).to_pylist() == rows.select(["id", "v"]).to_pylist()
    assert found.schema == SCHEMA


def test_vectors_of_other_number_types_become_the_columns(tmp_path: Path) -> None:
    schema = pa.schema([("v", pa.list_(pa.float16(), 2))])
    table = lake.create(str(tmp_path / "t"), schema)
    for kind in (pa.float64(), pa.float32(), pa.int32(), pa.uint8()):
        for outer in (pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2)):
            table.append({"v": pa.array([[1, 2], None, [3, 4]], outer)})
    assert table.to_arrow().column("v").to_pylist() == [[1, 2], None, [3, 4]] * 12


def test_a_table_is_appended_to_another(table: lake.Table, tmp_path: Path) -> None:
    copy = lake.create(str(tmp_path / "copy"), table.schema).append(table)
    assert copy.to_arrow().equals(table.to_arrow())
    arrow = lake.create(str(tmp_path / "from-capsule"), pa.schema(data(1).schema)).append(
        table.scan(where="id < 7")
    )
    assert arrow.count() == 7


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    table = lake.create(str(tmp_path / "t"), SCHEMA)
    table.append(data(1500), progress=lambda *facts: told.append(facts))
    assert told[-1] == ("append", 1500, 1500)
    told.clear()
    table.create_index("v", progress=lambda *facts: told.append(facts))
    assert told
    assert all(0 <= done <= total or total == 0 for _, done, total in told)


def test_an_index_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(data(20))
    table.create_index("v").append(data(5, 20)).create_index("v").create_index("v", "ip")
    assert table.inspect.indexes().select(["name", "rows"]).to_pylist() == [
        {"name": "v_l2", "rows": 25},
        {"name": "v_ip", "rows": 25},
    ]


def test_several_threads_use_one_table(tmp_path: Path) -> None:
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(data(50)).create_index("v")
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(6):
                if number == 0:
                    table.append(data(1, 1000 + turn))
                assert table.search([7.0] * 4, k=1).to_pylist()[0]["id"] == 7
                assert table.take([3], ["id"]).to_pylist() == [{"id": 3}]
                assert table.count("id < 50") == 50
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert table.count() == 56


# --- as a Dataset ---------------------------------------------------------------------------------------------


def test_every_method_of_a_dataset_works_or_says_that_it_does_not(table: lake.Table) -> None:
    """An inherited one would read a null pointer and end the process."""
    ours = lake.Table.__mro__[: lake.Table.__mro__.index(ds.Dataset)]
    pickling = {
        "__setstate__",
        "__setstate_cython__",
        "__reduce_cython__",
    }  # behind __reduce__, which refuses
    inherited = [
        name
        for name in set(dir(ds.Dataset)) - set(dir(object)) - pickling
        if not any(name in vars(kind) for kind in ours) and not name.startswith("__pyx")
    ]
    assert inherited == []
    called = {
        "join": (table, "id"), "join_asof": (table, "id", "id", 0), "filter": (pc.field("id") > 1,),
        "replace_schema": (SCHEMA,), "sort_by": ("id",), "head": (3,), "take": ([1],),
    }  # fmt: skip
    for name, member in inspect.getmembers_static(ds.Dataset):
        if name.startswith("_") or isinstance(member, property) or not callable(getattr(table, name)):
            continue
        refusals = []
        try:
            getattr(table, name)(*called.get(name, ()))
        except LakeError as error:
            refusals.append(error)
        assert [
            error for error in refusals if not (isinstance(error, UnsupportedError) and error.fix)
        ] == [], name


def test_private_doors_of_the_dataset_are_shut(table: lake.Table) -> None:
    for name in ("_get_fragments", "_scanner_options", "_scan_options"):
        with pytest.raises(UnsupportedError):
            getattr(table, name)({}, None)
    with pytest.raises(LakeError):
        copy.deepcopy(table)


def test_dataset_methods(table: lake.Table) -> None:
    assert isinstance(table, ds.Dataset)
    condition = pc.field("id") > 95
    assert table.to_table(columns=["id"], filter=condition).column("id").to_pylist() == [96, 97, 98, 99]
    assert (
        table.to_table(columns={"twice": pc.field("id") * 2}, filter=condition)["twice"].to_pylist()[0] == 192
    )
    assert table.head(3, columns=["id"]).column("id").to_pylist() == [0, 1, 2]
    assert table.count_rows(filter=condition) == 4
    assert sum(batch.num_rows for batch in table.to_batches(columns=["id"], batch_size=7)) == 100
    assert table.scanner(columns=["id"]).to_table().num_rows == 100
    assert pa.schema(table) == SCHEMA
    with pytest.raises(InvalidInputError, match="batchsize"):
        table.scanner(batchsize=3)


def test_duckdb_finds_a_table_in_a_variable(table: lake.Table) -> None:
    connection = duckdb.connect()
    items = table
    found = connection.sql("SELECT count(*), max(price) FROM items WHERE id >= 10 AND tag = 'b'").fetchall()
    wanted = [i for i in range(10, 100) if i % 5 and i % 3 == 1]
    assert found == [(len(wanted), max(wanted) / 4)]
    assert connection.sql("SELECT v[1] FROM items ORDER BY id DESC LIMIT 1").fetchall() == [(99.0,)]
    assert items is table


def test_polars_scans_a_table(table: lake.Table) -> None:
    lazy = pl.scan_pyarrow_dataset(table)
    found = lazy.filter((pl.col("id") > 90) & pl.col("tag").is_not_null()).select("id", "price").collect()
    assert found["id"].to_list() == [i for i in range(91, 100) if i % 5]
    assert lazy.select(pl.len()).collect().item() == 100


def test_pandas_takes_a_table(table: lake.Table) -> None:
    frame = table.to_table(filter=pc.field("id") < 3).to_pandas()
    assert frame["price"].tolist() == [0.0, 0.25, 0.5]
    assert frame["v"].iloc[2].tolist() == [2.0] * 4


# --- opening --------------------------------------------------------------------------------------------------


def test_the_readme_of_a_table(table_uri: Location) -> None:
    """Create, append, search, filter, reopen, an old version: on local disk, memory and S3."""
    options = {"storage_options": table_uri.storage_options}
    table = lake.create(table_uri.uri, SCHEMA, **options)
    table.append(data(30))
    table.create_index("v")
    table.append(data(5, 30))
    again = lake.open(table_uri.uri, **options)
    assert again.to_arrow().equals(data(35))
    assert again.search([33.0] * 4, k=2, where="tag IS NOT NULL", select=["id"]).to_pylist()[0]["id"] == 33
    assert lake.open(table_uri.uri, version=2, **options).count() == 30
    assert again.take([34, 2], ["id"]).to_pylist() == [{"id": 34}, {"id": 2}]


def test_a_second_handle_sees_a_commit_after_refresh(tmp_path: Path) -> None:
    first = lake.create(str(tmp_path / "t"), SCHEMA)
    second = lake.open(str(tmp_path / "t"))
    first.append(data(3))
    assert second.count() == 0
    assert second.refresh().count() == 3
    assert second.refresh() is second


def test_a_lost_hint_is_only_slower(tmp_path: Path) -> None:
    """spec: COM-5"""
    store = FaultyStore(
        open_store(str(tmp_path / "t")),
        lambda _n, method, _p: Fault.LOSE_REQUEST if method == "put" else None,
    )
    table = lake.create("unused", SCHEMA, store=store)
    table.append(data(3)).append(data(4, 3))
    assert not (tmp_path / "t" / "_lake" / "latest").exists()
    assert lake.open(str(tmp_path / "t")).count() == 7


def _import_seconds(statement: str) -> float:
    program = f"import time; s = time.perf_counter(); {statement}; print(time.perf_counter() - s)"
    return float(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )


def test_importing_costs_little() -> None:
    plain = min(_import_seconds("import pyarrow") for _ in range(3))
    ours = min(_import_seconds("import pyarrow; import lake_format") for _ in range(3))
    assert ours - plain < 0.15


def test_opening_loads_no_engine_library(table: lake.Table) -> None:
    program = f"""
import sys, lake_format as lake
table = lake.open({table.uri!r})
table.count(), table.versions(), table.schema
assert not {{"faiss", "duckdb", "polars", "vortex"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = threading.active_count()
    yield
    leftover = [thread.name for thread in threading.enumerate() if thread.name.startswith("lake-")]
    assert not leftover or threading.active_count() <= before + len(leftover)
