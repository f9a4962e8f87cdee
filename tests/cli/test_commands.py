"""Every command of ``lake``: what it does and what it prints."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from conftest import Location

import lake_format as lake
from cli.helpers import DIMENSION, LAKE, ROWS, Run, rows

# --- making and filling tables ------------------------------------------------------------------------------


def test_create_from_a_schema_text(cli: Run, here: Path) -> None:
    done = cli(
        "create", "t", "--schema", "id int64 not null, vec vector(8)", "--property", "user.team=search"
    )
    assert done.code == 0, done.err
    table = lake.open("t")
    assert table.schema == pa.schema([pa.field("id", pa.int64(), False), ("vec", pa.list_(pa.float32(), 8))])
    assert table.properties == {"user.team": "search"}
    assert "vector(8)" in done.out


def files_of(data: pa.Table) -> Iterator[Path]:
    pq.write_table(data, "data.parquet", row_group_size=50)
    feather.write_feather(data, "data.arrow")
    with pa.OSFile("data.arrows", "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=70)
    records = data.to_pylist()
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    Path("data.json").write_text(json.dumps(records, indent=1))
    with gzip.open("data.ndjson.gz", "wt") as compressed:
        compressed.writelines(json.dumps(row) + "\n" for row in records)
    for name, delimiter in (("data.csv", ","), ("data.tsv", "\t")):
        with Path(name).open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(data.column_names)
            writer.writerows(
                [row["id"], row["title"], row["price"], json.dumps(row["vec"])] for row in records
            )
    names = [
        "data.parquet",
        "data.arrow",
        "data.arrows",
        "data.jsonl",
        "data.json",
        "data.ndjson.gz",
        "data.csv",
    ]
    yield from map(Path, [*names, "data.tsv"])


def test_every_file_format_makes_and_fills_the_same_table(cli: Run, here: Path) -> None:
    data = rows()
    for number, file in enumerate(files_of(data)):
        made = cli("create", f"t{number}", "--like", file)
        assert made.code == 0, (file, made.err)
        assert "vector(8)" in made.out, (file, made.out)
        filled = cli("append", f"t{number}", file)
        assert filled.code == 0, (file, filled.err)
        assert f"appended {ROWS} rows" in filled.out
        assert lake.open(f"t{number}").to_arrow().equals(data), file


def test_several_files_are_one_commit(cli: Run, items: lake.Table) -> None:
    pq.write_table(rows(10, 1000), "one.parquet")
    pq.write_table(rows(20, 2000), "two.parquet")
    done = cli("append", "items", "one.parquet", "two.parquet")
    assert done.code == 0, done.err
    assert "version 3" in done.out
    assert lake.open("items").count() == ROWS + 30


def test_a_bad_file_among_several_appends_nothing(cli: Run, items: lake.Table) -> None:
    pq.write_table(rows(10, 1000), "good.parquet")
    Path("bad.jsonl").write_text('{"id": 1, "vec": [1, 2, 3]}\n')
    done = cli("append", "items", "good.parquet", "bad.jsonl")
    assert done.code == 2
    assert "dimension 8" in done.err
    assert lake.open("items").version == 2


def test_rows_come_from_standard_input(items: lake.Table) -> None:
    line = json.dumps({"id": 999, "vec": [0.5] * DIMENSION}) + "\n"
    command = [LAKE, "append", "items", "-", "--input-format", "json"]
    done = subprocess.run(command, input=line, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert items.refresh().count("id = 999") == 1


def test_a_large_json_array_is_read_block_by_block(
    cli: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lake_connectors.cli.inputs.BLOCK_BYTES", 100)
    monkeypatch.setattr("lake_connectors.cli.inputs.ARRAY_ROWS", 7)
    Path("rows.json").write_text(
        " [" + ",\n".join(json.dumps({"id": i, "s": "ü" * i}) for i in range(60)) + "]\n"
    )
    assert cli("create", "t", "--schema", "id int64, s string").code == 0
    done = cli("append", "t", "rows.json")
    assert done.code == 0, done.err
    assert lake.open("t").to_arrow().column("s").to_pylist() == ["ü" * i for i in range(60)]


# --- reading ------------------------------------------------------------------------------------------------


def test_scan_gives_columns_filter_and_limit(cli: Run, items: lake.Table) -> None:
    words = ["scan", "items", "--columns", "id, _row_id", "--where", "price >= 70 AND title IS NOT NULL"]
    done = cli(*words, "--limit", 3, "--format", "json")
    assert done.rows == [{"id": i, "_row_id": i} for i in (280, 281, 282)]
    as_csv = cli(*words, "--limit", 2, "--format", "csv")
    assert as_csv.out == "id,_row_id\n280,280\n281,281\n"


def test_scan_as_a_table_shows_the_first_rows_and_says_so(cli: Run, items: lake.Table) -> None:
    done = cli("scan", "items")
    assert done.out.count("\n") == 22
    assert "8 in all" in done.out
    assert "NULL" in done.out
    assert "first 20 rows" in done.err
    assert cli("scan", "items", "--limit", 20).err == ""
    assert cli("scan", "items", "--limit", ROWS).out.count("\n") == ROWS + 2


def test_scan_as_csv_can_be_read_back(cli: Run, items: lake.Table) -> None:
    done = cli("scan", "items", "--format", "csv")
    back = list(csv.DictReader(io.StringIO(done.out)))
    expected = rows().to_pylist()
    assert [row["title"] or None for row in back] == [row["title"] for row in expected]
    assert [np.float32(json.loads(row["vec"])).tolist() for row in back] == [row["vec"] for row in expected]


def test_older_versions_are_read(cli: Run, items: lake.Table) -> None:
    items.append(rows(5, 5000))
    for command in (["scan", "items"], ["search", "items", "--like-row", "3", "--k", "1000"]):
        old, new = (cli(*command, *more, "--format", "json") for more in (["--version", "2"], []))
        assert (len(old.rows), len(new.rows)) == (ROWS, ROWS + 5), old.err + new.err
    counted = cli("sql", "SELECT count(*) AS n FROM items", "items", "--version", "2", "--format", "json")
    assert counted.rows == [{"n": ROWS}], counted.err
    assert cli("describe", "items", "--version", 2, "--format", "json").rows[0]["rows"] == ROWS


def test_describe_names_columns_readers_and_indexes(cli: Run, items: lake.Table) -> None:
    assert "lake index makes one" in cli("describe", "items").out
    assert cli("index", "items", "vec", "--metric", "cosine", "--seed", 1).code == 0
    shown = cli("describe", "items").out
    for words in ("300 in 1 fragment, 2 files", "vector(8)", "any Parquet reader", "vec_cosine", "cosine"):
        assert words in shown
    facts = cli("describe", "items", "--format", "json").rows[0]
    expected = {"name": "id", "type": "int64", "nullable": True, "default": None, "computed": None}
    expected["formats"] = ["parquet"]
    assert facts["columns"][0] == expected
    assert facts["indexes"][0]["rows"] == ROWS
    assert cli("describe", "items", "--format", "csv").out.startswith(
        "name,type,nullable,default,computed,formats\nid,int64,true,"
    )


def test_a_declared_default_is_shown(cli: Run, items: lake.Table) -> None:
    items.add_column("state", values="new")
    [line] = [one for one in cli("describe", "items").out.splitlines() if "state" in one]
    assert line.split()[-2:] == ["default", "new"]
    found = {
        row["column"]: row["default"] for row in cli("inspect", "items", "columns", "--format", "json").rows
    }
    assert (found["state"], found["id"]) == ("new", None)


def test_changes_since_a_version_or_a_tag(cli: Run, items: lake.Table) -> None:
    since = items.tag("loaded").version
    items.delete("id = 3")
    items.update({"title": "new"}, where="id = 4")
    expected = [("delete", 3), ("update_preimage", 4), ("update_postimage", 4)]
    for when in (since, "loaded"):
        done = cli("changes", "items", "--since", when, "--columns", "id,title", "--format", "json")
        assert done.code == 0, done.err
        assert [(one["_change"], one["id"]) for one in done.rows] == expected
        assert done.rows[2]["title"] == "new"
    assert (
        cli("changes", "items", "--since", since, "--until", since + 1, "--format", "csv").out.count("\n")
        == 2
    )
    assert "there is no tag" in cli("changes", "items", "--since", "nothing").err


def test_history_is_newest_first(cli: Run, items: lake.Table) -> None:
    done = cli("history", "items", "--format", "json")
    assert [(row["version"], row["operation"], row["rows"]) for row in done.rows] == [
        (2, "append", ROWS),
        (1, "create", 0),
    ]
    assert len(cli("history", "items", "--limit", 1, "--format", "json").rows) == 1
    assert "bytes=" in cli("history", "items").out


@pytest.mark.parametrize("part", ["fragments", "partitions", "files", "manifests", "indexes", "versions"])
def test_inspect_shows_what_the_library_shows(cli: Run, items: lake.Table, part: str) -> None:
    done = cli("inspect", "items", part, "--format", "json")
    assert done.code == 0, done.err
    expected = getattr(items.inspect, part)()
    assert len(done.rows) == expected.num_rows
    assert all(list(row) == expected.column_names for row in done.rows)


# --- searching ----------------------------------------------------------------------------------------------


def test_search_by_vector_row_and_file_agree(cli: Run, items: lake.Table) -> None:
    vector = rows().column("vec")[17].as_py()
    Path("query.json").write_text(json.dumps(vector))
    np.save("query.npy", np.array(vector, np.float32))
    queries = (["--vector", json.dumps(vector)], ["--vector", "@query.json"], ["--vector", "@query.npy"])
    found = [
        cli("search", "items", *words, "--format", "json").rows for words in (*queries, ["--like-row", "17"])
    ]
    assert found[0][0]["_row_id"] == 17
    assert found[0][0]["_distance"] == 0
    assert "vec" not in found[0][0]
    assert all(other == found[0] for other in found[1:])


def test_search_takes_filter_columns_metric_and_batches(cli: Run, items: lake.Table) -> None:
    words = ["search", "items", "--like-row", "5", "--k", "4", "--format", "json"]
    filtered = cli(*words, "--where", "id < 50", "--select", "id,vec", "--metric", "cosine", "--exact")
    assert len(filtered.rows) == 4
    assert all(row["id"] < 50 and len(row["vec"]) == DIMENSION for row in filtered.rows)
    batch = cli("search", "items", "--vector", json.dumps([[0.5] * 8, [1] * 8]), "--k", 2, "--format", "json")
    assert [row["_query"] for row in batch.rows] == [0, 0, 1, 1]


def test_search_says_how_it_searched(cli: Run, items: lake.Table) -> None:
    cli("index", "items", "vec")
    table = cli("search", "items", "--like-row", 3, "--k", 5)
    assert "5 rows in" in table.err
    explained = cli("search", "items", "--like-row", 3, "--explain", "--format", "json")
    assert explained.err.strip()
    assert len(explained.rows) == 10


def test_sql_names_tables_by_their_last_part_or_as_told(cli: Run, items: lake.Table) -> None:
    lake.create("other-items", rows().schema).append(rows(3))
    joined = "SELECT count(*) AS n FROM items JOIN other_items USING (id)"
    assert cli("sql", joined, "items", "./other-items/", "--format", "json").rows == [{"n": 3}]
    assert (
        cli("sql", "SELECT count(*) AS n FROM a", "--table", "a=items", "--format", "csv").out == "n\n300\n"
    )


def test_sql_uses_the_index_with_parameters(cli: Run, items: lake.Table) -> None:
    vector = json.dumps(rows().column("vec")[17].as_py())
    query = "SELECT id, _distance FROM knn('items', ?, 3) WHERE price > 1"
    done = cli("sql", query, "items", "--param", vector, "--format", "json")
    assert done.code == 0, done.err
    assert done.rows[0] == {"id": 17, "_distance": 0}
    assert len(done.rows) == 3


# --- elsewhere than on a disk -------------------------------------------------------------------------------


def test_tables_in_a_bucket_take_their_endpoint_from_options(
    cli: Run, here: Path, s3_location: Location
) -> None:
    options = [word for pair in s3_location.storage_options.items() for word in ("--option", "=".join(pair))]
    uri = s3_location.uri
    pq.write_table(rows(), "rows.parquet")
    assert cli("create", uri, "--like", "rows.parquet", *options).code == 0
    filled = cli("append", uri, "rows.parquet", *options)
    assert filled.code == 0, filled.err
    assert cli("index", uri, "vec", *options).code == 0
    found = cli("search", uri, "--like-row", 17, "--k", 2, "--format", "json", *options)
    assert found.rows[0]["id"] == 17, found.err
    counted = cli("sql", "SELECT count(*) AS n FROM t", "--table", f"t={uri}", "--format", "json", *options)
    assert counted.rows == [{"n": ROWS}], counted.err
    assert cli("describe", uri, *options).code == 0
    wrong = cli("describe", uri + "-other", *options)
    assert wrong.code == 3
    assert wrong.err.count("\n") == 1


def test_columns_are_added_and_computed(cli: Run, here: Path) -> None:
    words = (
        "create",
        "o",
        "--schema",
        "id int64, price float64, total float64",
        "--computed",
        "total=price * 2",
    )
    assert cli(*words).code == 0
    lake.open("o").append([{"id": 1, "price": 2.5}])
    assert (
        cli("add-column", "o", "stock", "--type", "int64", "--comment", "pieces").out
        == "stock is int64: version 3\n"
    )
    assert cli("add-column", "o", "twice", "--sql", "id * 2").out == "twice is int64: version 4\n"
    done = cli(
        "add-column", "o", "a b", "--sql", "lower('X')", "--type", "string", "--computed", "--not-null"
    )
    assert done.out == "a b is string, computed as lower('X'): version 5\n", done.err
    lake.open("o").append([{"id": 2}])
    assert lake.open("o").to_arrow().select(["total", "twice", "a b"]).to_pylist() == [
        {"total": 5.0, "twice": 2, "a b": "x"},
        {"total": None, "twice": None, "a b": "x"},
    ]
    assert "total  float64  computed as price * 2  parquet" in cli("describe", "o").out
    shown = cli("inspect", "o", "columns", "--format", "json").rows
    assert [row["computed"] for row in shown] == [None, None, "price * 2", None, None, "lower('X')"]
    for wrong in (
        ("c",),
        ("c", "--computed", "--type", "int8"),
        ("total", "--type", "int8"),
        ("c", "--type", "int 8"),
    ):
        found = cli("add-column", "o", *wrong)
        assert found.code != 0
        assert found.err.count("\n") == 1
    assert "KEY=VALUE" in cli("create", "q", "--schema", "a int64", "--computed", "a").err


def test_partitions_and_clustering(cli: Run, here: Path) -> None:
    made = cli(
        *("create", "p", "--schema", "id int64 not null, n int32, vec vector(8)"),
        *("--partition-by", "bucket(2, id)", "--cluster-by", "n", "--cluster-by", "id"),
    )
    assert made.code == 0, made.err
    table = lake.open("p")
    assert (table.partitioning, table.clustering) == (["bucket(2, id)"], ("hilbert", ["n", "id"]))
    table.append(rows(50).select(["id", "vec"]))
    assert "0 fragments became 0" in cli("cluster", "p").out
    done = cli("cluster", "p", "id")
    assert "clustered 50 rows: 2 fragments became 2" in done.out, done.err
    assert len(cli("inspect", "p", "partitions", "--format", "json").rows) == 2
    assert cli("cluster", "p", "--vector", "vec").code != 0


def test_maintain_and_repair(cli: Run, items: lake.Table) -> None:
    told = cli("maintain", "items", "--dry-run")
    assert told.code == 0, told.err
    assert "compact          not due  0 fragments are small or worn" in told.out
    assert cli("maintain", "items", "--json").rows[0]["steps"][3]["name"] == "expire"
    assert "0 problems, 0 of them left; nothing was changed" in cli("repair", "items").out
    lost = next(file["path"] for file in items.inspect.files().to_pylist())
    items.snapshot.store.delete(lost)
    told = cli("repair", "items")
    assert (told.code, "(300 rows)" in told.out, "1 problems, 1 of them left" in told.out) == (0, True, True)
    done = cli("repair", "items", "--apply", "--drop-lost", "--json")
    assert done.rows[0]["findings"][0]["action"] == "drop fragment 0"
    assert items.refresh().count() == 0
