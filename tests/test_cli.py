"""The command line as its users meet it: every command, its outputs, its mistakes and its exit codes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import lake_format as lake
from lake_connectors.cli import run
from lake_connectors.cli.outcome import EXIT_CODES, EXIT_MEANINGS
from lake_connectors.cli.progress import Progress
from lake_connectors.cli.root import FIRST_STEPS, PLACES, root
from lake_format import errors

LAKE = str(Path(sys.executable).with_name("lake"))
ROWS = 300
DIMENSION = 8


@dataclass(frozen=True)
class Done:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines of its output."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*words: object) -> Done:
        capfdbinary.readouterr()
        code = run([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        return Done(code, out.decode(), err.decode())

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(count: int = ROWS, start: int = 0) -> pa.Table:
    vectors = np.random.default_rng(7 + start).normal(size=(count, DIMENSION)).astype(np.float32)
    ids = np.arange(start, start + count)
    return pa.table(
        {
            "id": ids,
            "title": [None if i % 10 == 3 else f"row {i}, “{i}”" for i in ids],
            "price": ids / 4,
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION),
        }
    )


@pytest.fixture
def items(here: Path) -> lake.Table:
    data = rows()
    return lake.create("items", data.schema).append(data)


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
    assert facts["columns"][0] == {"name": "id", "type": "int64", "nullable": True, "formats": ["vortex"]}
    assert facts["indexes"][0]["rows"] == ROWS
    assert cli("describe", "items", "--format", "csv").out.startswith(
        "name,type,nullable,formats\nid,int64,true,"
    )


def test_history_is_newest_first(cli: Run, items: lake.Table) -> None:
    done = cli("history", "items", "--format", "json")
    assert [(row["version"], row["operation"], row["rows"]) for row in done.rows] == [
        (2, "append", ROWS),
        (1, "create", 0),
    ]
    assert len(cli("history", "items", "--limit", 1, "--format", "json").rows) == 1
    assert "bytes=" in cli("history", "items").out


@pytest.mark.parametrize("part", ["fragments", "files", "manifests", "indexes", "versions"])
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


# --- mistakes -----------------------------------------------------------------------------------------------

MISTAKES = [
    (["scan", "nowhere"], 3, "no table at"),
    (["create", "items", "--schema", "id int64"], 4, "there is a table"),
    (["create", "new"], 2, "--schema or --like"),
    (["create", "new", "--schema", "id int63"], 2, "did you mean 'int64'"),
    (["create", "new", "--schema", "id"], 2, "expected a type"),
    (
        ["create", "new", "--schema", "id int64", "--property", "write.scalar-fromat=x"],
        2,
        "write.scalar-format",
    ),
    (["create", "new", "--schema", "id int64", "--property", "nonsense"], 2, "KEY=VALUE"),
    (["append", "items", "missing.parquet"], 2, "no file missing.parquet"),
    (["append", "items", "notes.txt"], 2, "--input-format"),
    (["append", "items", "folder"], 2, "is a folder"),
    (["append", "items", "notes.txt", "--input-format", "parquet"], 2, "notes.txt cannot be read as parquet"),
    (["append", "items", "notes.txt", "--input-format", "json"], 2, "notes.txt cannot be read as json"),
    (["append", "items", "notes.txt", "--input-format", "arrow"], 2, "notes.txt cannot be read as arrow"),
    (["append", "items", "-"], 2, "--input-format"),
    (["append", "items", "typo.jsonl"], 2, "did you mean 'title'"),
    (["append", "items", "cell.csv"], 2, "cell.csv: column 'vec'"),
    (["append", "items"], 2, "FILE"),
    (["scan", "items", "--columns", "titel"], 2, "did you mean 'title'"),
    (["scan", "items", "--where", "price <"], 2, "price"),
    (["scan", "items", "--version", "9"], 3, "no version 9"),
    (["scan", "items", "--limit", "-1"], 2, "--limit"),
    (["scan", "items", "--format", "xml"], 2, "xml"),
    (["scan", "items", "--option", "secret"], 2, "key=value"),
    (["scan", "items", "--colums", "id"], 2, "--columns"),
    (["index", "items", "title"], 2, "not a vector"),
    (["index", "items", "vec", "--metric", "l3"], 2, "l3"),
    (["search", "items"], 2, "--vector or --like-row"),
    (["search", "items", "--vector", "[1, 2"], 2, "not JSON"),
    (["search", "items", "--vector", "[1, 2]"], 2, "dimension 8"),
    (["search", "items", "--vector", "@missing.json"], 2, "cannot read missing.json"),
    (["search", "items", "--vector", "@notes.npy"], 2, "not a NumPy array"),
    (["search", "items", "--like-row", "99999"], 3, "99999"),
    (["search", "items", "--like-row", "1", "--k", "0"], 2, "k must be"),
    (["sql", "SELECT * FRM items", "items"], 2, "DuckDB"),
    (["sql", "SELECT 1", "a/items", "b/items"], 2, "two tables are called 'items'"),
    (
        ["sql", "SELECT 1", "items", "--table", "x=items", "--version", "1"],
        2,
        "--version goes with one table",
    ),
    (["inspect", "items", "rows"], 2, "rows"),
    (["serach", "items"], 2, "did you mean 'search'"),
    (["describe", "broken"], 8, "damaged"),
]


@pytest.mark.parametrize(("words", "code", "text"), MISTAKES, ids=[" ".join(words) for words, *_ in MISTAKES])
def test_a_mistake_is_one_clear_line_and_a_code(
    cli: Run, items: lake.Table, words: list[str], code: int, text: str
) -> None:
    Path("folder").mkdir()
    Path("notes.txt").write_text("dear diary, nothing here is a table\n")
    Path("notes.npy").write_text("dear diary")
    Path("typo.jsonl").write_text('{"id": 1, "titel": "x"}\n')
    Path("cell.csv").write_text('id,vec\n1,"[1, 2"\n')
    if "broken" in words:
        break_table()
    done = cli(*words)
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert done.out == ""
    if text != "damaged":
        assert text in done.err
    assert items.refresh().version == 2


def break_table() -> None:
    lake.create("broken", pa.schema([("id", pa.int64())]))
    for file in Path("broken").rglob("*"):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[len(data) // 2 :] = b"\x00" * (len(data) - len(data) // 2)
            file.write_bytes(data)


def test_every_error_class_has_its_own_exit_code_and_a_meaning() -> None:
    codes = {kind.code for kind in errors.LakeError.__subclasses__()}
    assert set(EXIT_CODES) == codes
    assert len(set(EXIT_CODES.values())) == len(codes)
    assert set(EXIT_CODES.values()) <= set(EXIT_MEANINGS)


def test_a_fault_of_ours_is_reported_as_one(
    cli: Run, items: lake.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(lake, "open", fail)
    done = cli("describe", "items")
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "LAKE_DEBUG=1" in done.err
    assert done.err.count("\n") == 1
    monkeypatch.setenv("LAKE_DEBUG", "1")
    assert "Traceback" in cli("describe", "items").err


def test_a_closed_pipe_ends_quietly(items: lake.Table) -> None:
    scan = subprocess.Popen(
        [LAKE, "scan", "items", "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert scan.stdout is not None
    assert scan.stderr is not None
    scan.stdout.close()  # nobody reads at all: the first write fails
    assert scan.stderr.read() == b""
    assert scan.wait(30) == 141


def test_ctrl_c_ends_with_one_word_and_commits_nothing(items: lake.Table) -> None:
    command = [LAKE, "append", "items", "-", "--input-format", "json"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert job.stdin is not None
    line = json.dumps({"id": 1, "vec": [0.5] * DIMENSION}).encode() + b"\n"
    job.stdin.write(line * 1000)
    job.stdin.flush()
    time.sleep(2.5)  # it is waiting for more rows now
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=30)
    assert (job.returncode, err.strip(), out) == (130, b"interrupted", b"")
    assert items.refresh().version == 2


# --- help, start-up, progress -------------------------------------------------------------------------------


def test_help_lists_every_command(cli: Run) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(f"  {name} " in done.out for name in PLACES)
    assert cli("--version").out == f"lake {lake.__version__}\n"
    assert all(str(code) in done.out for code in EXIT_MEANINGS)


@pytest.mark.parametrize("name", PLACES)
def test_every_command_has_help_with_examples_that_parse(cli: Run, name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    done = cli(name, "--help")
    assert done.code == 0
    examples = command.examples  # type: ignore[attr-defined]
    assert len(examples) >= 2
    for example in examples:
        assert f"  {example}\n" in done.out
        assert_parses(name, command, example)
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_first_steps_in_the_help_work(cli: Run, here: Path) -> None:
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"id": i, "vec": [i, 1, 0.5]}) + "\n" for i in range(30))
    )
    for step in FIRST_STEPS:
        done = cli(*shlex.split(step)[1:])
        assert done.code == 0, (step, done.err)


def assert_parses(name: str, command: click.Command, example: str) -> None:
    words = shlex.split(example)
    words = words[words.index("lake") :]
    ends = [index for index, word in enumerate(words) if word in ("|", ">")]
    assert words[1] == name
    command.make_context(name, words[2 : ends[0] if ends else None])


def test_the_commands_are_found_where_the_list_says() -> None:
    for name, place in PLACES.items():
        command = root.get_command(click.Context(root), name)
        assert command is not None
        assert command.callback is not None
        assert command.callback.__module__ == f"lake_connectors.cli.{place.module}"
        assert place.about.endswith(".")


def loaded_by(*words: str) -> set[str]:
    code = f"import sys; sys.argv = {['lake', *words]!r}\nfrom lake_connectors.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print('\\n', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_commands_load_only_what_they_need(items: lake.Table) -> None:
    assert not loaded_by("--version") & {"pyarrow", "numpy", "rich", "faiss", "vortex", "duckdb", "pandas"}
    assert not loaded_by("--help") & {"pyarrow", "numpy", "rich", "faiss", "vortex", "duckdb", "pandas"}
    assert not loaded_by("describe", "items") & {"faiss", "vortex", "duckdb", "pandas", "sqlglot"}
    assert not loaded_by("scan", "items", "--format", "json") & {"faiss", "duckdb", "pandas", "rich"}


def test_progress_shows_only_long_work_and_only_to_someone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(stream: io.StringIO, seconds: float) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        clock = iter([0.0, seconds, seconds])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock, seconds))
        monkeypatch.setenv("TERM", "xterm")
        with Progress(total=100) as progress:
            progress("writing", 10, 0)
            progress("writing", 20, 0)
        return stream.getvalue()

    assert shown(Terminal(), 0.5) == ""
    assert shown(io.StringIO(), 5.0) == ""
    assert "writing" in shown(Terminal(), 5.0)


def test_a_narrow_terminal_cuts_cells_instead_of_wrapping_rows(items: lake.Table) -> None:
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    job = subprocess.Popen(
        [LAKE, "scan", "items", "--limit", "3"], stdout=child, stderr=child, env=environment
    )
    assert job.wait(30) == 0
    os.close(child)
    text = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert len(text.strip().splitlines()) == 5
    assert "…" in text
