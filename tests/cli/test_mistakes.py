"""Every mistake is one clear line and an exit code that scripts can tell apart."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import lake_format as lake
from cli.helpers import Run
from lake_connectors.cli.outcome import EXIT_CODES, EXIT_MEANINGS, exit_code
from lake_format import errors

# --- mistakes -----------------------------------------------------------------------------------------------

MISTAKES = [
    (["scan", "nowhere"], 3, "no table at nowhere — check the path, or make one with 'lake create'"),
    (["create", "items", "--schema", "id int64"], 4, "add rows with 'lake append'"),
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
    (["scan", "items", "--version", "9"], 3, "no version 9 — 'lake history' lists"),
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
    (["sql", "SELECT titel FROM items", "items"], 2, "titel"),
    (["sql", "FROM item", "items"], 2, "here are items"),
    (["sql", "FROM items"], 2, "give the table's URI"),
    (["sql", "SELECT id FROM knn('items', [1, 2], 3)", "items"], 2, "the query has shape (2,)"),
    (["sql", "SELECT 1", "nowhere"], 3, "no table at"),
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


def test_a_special_kind_of_error_exits_like_its_class() -> None:
    class OddValueError(errors.InvalidInputError):
        code = "odd_value"

    assert exit_code(OddValueError("odd")) == EXIT_CODES["invalid_input"]
    assert exit_code(errors.LakeError("anything")) == 1


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
