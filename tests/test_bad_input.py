"""Wrong input: a typed error that says what, where and how to mend it; nothing written, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lake_format as lake
from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    UnsupportedError,
)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("price", pa.float32()),
        ("tag", pa.string()),
        ("v", pa.list_(pa.float32(), 4)),
    ]
)
ROW = {"id": 1, "price": 1.5, "tag": "x", "v": [1.0, 2.0, 3.0, 4.0]}


def vectors(rows: int, dimension: int = 4, dtype: str = "f4") -> pa.Array:
    numbers = np.arange(rows * dimension, dtype=dtype)
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers), dimension)


def data(rows: int = 20) -> pa.Table:
    return pa.table(
        [
            pa.array(range(rows), pa.int64()),
            pa.nulls(rows, pa.float32()),
            pa.array(["x"] * rows),
            vectors(rows),
        ],
        SCHEMA,
    )


@pytest.fixture
def table(tmp_path: Path) -> lake.Table:
    return lake.create(str(tmp_path / "t"), SCHEMA).append(data())


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> lake.Table:
    """A table that no test of this module writes to."""
    return lake.create(str(tmp_path_factory.mktemp("bad") / "t"), SCHEMA).append(data())


def files(root: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def row(**changes: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in (ROW | changes).items() if value is not ...}]


BAD_ROWS: dict[str, tuple[Any, str]] = {
    "an unknown column": (row(prise=2.0), "no column 'prise'.*did you mean 'price'"),
    "a missing column": (row(id=...), "'id' is missing.*must not be NULL"),
    "a NULL where none may be": (row(id=None), "'id'.*NULL"),
    "text for a number": (row(id="one"), "'id' is int64.*string"),
    "a number for text": (row(tag=7), "'tag' is string.*int64"),
    "a fraction for a whole number": (row(id=1.5), "'id' is int64.*double"),
    "a float that loses digits": (row(price=0.1), "'price' is float, which cannot hold 0.1 exactly"),
    "a vector too long": (row(v=[1.0] * 5), "'v' holds vectors of dimension 4, but row 0.*has 5"),
    "a vector too short": (row(v=[1.0]), "'v' holds vectors of dimension 4, but row 0.*has 1"),
    "a NULL in a vector": (row(v=[1.0, None, 3.0, 4.0]), "'v' has a NULL inside a vector"),
    "text in a vector": (row(v=list("abcd")), "'v' holds vectors of numbers, not of string"),
    "a number for a vector": (row(v=3.0), "'v' holds vectors of dimension 4.*double"),
    "columns of different lengths": ({"id": [1, 2], "tag": ["x"]}, "cannot be made into columns"),
    "mixed types in a column": (
        [{"id": 1, "tag": "x"}, {"id": "2", "tag": "x"}],
        "cannot be made into columns",
    ),
    "no rows at all": (7, "cannot read rows from a int"),
    "text": ("rows", "cannot read rows from a str"),
    "a column twice": (pa.table([pa.array([1]), pa.array([2])], ["id", "id"]), "'id' occurs twice"),
    "the reserved name": (row(_row_id=3), "_row_id"),
    "wrong columns without rows": (pa.table({"prise": pa.array([], pa.float32())}), "no column 'prise'"),
    "wrong types without rows": (pa.table({"id": pa.array([], pa.string())}), "'id' is int64.*string"),
    "a later batch that does not fit": (
        iter([data(70_000), pa.table({"id": pa.array([2**62]), "tag": pa.array([b"\xff"])})]),
        "'tag'",
    ),
    "a vector of another dimension": (
        pa.table({"id": pa.array([1]), "v": vectors(1, 8)}),
        "'v' holds vectors of dimension 4, but row 0.*has 8",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(name: str, table: lake.Table) -> None:
    rows, message = BAD_ROWS[name]
    before = files(table.uri)
    with pytest.raises(InvalidInputError, match=message):
        table.append(rows)
    assert files(table.uri) == before
    assert (table.count(), table.version) == (20, 2)
    assert table.append(row()).count() == 21  # and the table still takes rows


def test_nothing_to_append_is_no_commit(table: lake.Table) -> None:
    for nothing in (data(0), [], iter([]), data(0).to_reader(), {"id": pa.array([], pa.int64())}):
        table.append(nothing)
    assert table.version == 2


Call = Callable[[lake.Table], object]

BAD_CALLS: dict[str, tuple[Call, str]] = {
    "scan of an unknown column": (lambda t: t.scan(["prise"]), "no column 'prise'.*did you mean 'price'"),
    "scan of a column twice": (lambda t: t.scan(["id", "id"]), "'id' is asked for more than once"),
    "columns as a string": (lambda t: t.scan("id"), "list of names"),
    "a negative limit": (lambda t: t.scan(limit=-1), "limit"),
    "a limit that is no number": (lambda t: t.scan(limit="10"), "limit"),
    "a filter with an unknown column": (lambda t: t.count("prise < 3"), "prise"),
    "a filter that is no SQL": (lambda t: t.count("price <"), "."),
    "a filter that is no condition": (lambda t: t.count("price + 1"), "."),
    "a filter of another kind": (lambda t: t.count(7), "must be SQL text or a pyarrow expression, not int"),
    "a filter between types": (lambda t: t.count("tag < 3"), "."),
    "an expression with an unknown column": (lambda t: t.scan(where=pc.field("nope") > 1), "nope"),
    "take of a negative row id": (lambda t: t.take([-1]), "row id -1 is negative"),
    "take of fractions": (lambda t: t.take([1.5]), "whole numbers"),
    "take of an unknown column": (lambda t: t.take([1], ["nope"]), "no column 'nope'"),
    "take of NULL": (lambda t: t.take(pa.array([1, None])), "NULL"),
    "k of zero": (lambda t: t.search([0.0] * 4, k=0), "k must be a positive whole number, not 0"),
    "a negative k": (lambda t: t.search([0.0] * 4, k=-3), "k must be a positive"),
    "k that is no number": (lambda t: t.search([0.0] * 4, k="5"), "k must be a positive"),
    "k that is true": (lambda t: t.search([0.0] * 4, k=True), "k must be a positive"),
    "a query of another dimension": (
        lambda t: t.search([0.0] * 3),
        r"shape \(3,\).*'v' has dimension 4.*vector of 4",
    ),
    "a batch of another dimension": (lambda t: t.search(np.zeros((2, 5))), r"shape \(2, 5\).*dimension 4"),
    "an empty batch": (lambda t: t.search(np.zeros((0, 4))), "empty"),
    "NaN in a query": (
        lambda t: t.search([0.0, float("nan"), 0.0, 0.0]),
        "the query holds a NaN or infinite value",
    ),
    "infinity in a batch": (lambda t: t.search([[0.0] * 4, [np.inf] * 4]), "query 1 holds a NaN or infinite"),
    "a query beyond float32": (lambda t: t.search([1e39, 0.0, 0.0, 0.0]), "infinite"),
    "a query of text": (lambda t: t.search("nearest"), "not a vector of numbers"),
    "search of an unknown column": (lambda t: t.search([0.0] * 4, column="w"), "no column 'w'"),
    "search of a column that is no vector": (
        lambda t: t.search([0.0] * 4, column="price"),
        "'price' has the type float",
    ),
    "search with an unknown column wanted": (
        lambda t: t.search([0.0] * 4, select=["nope"]),
        "no column 'nope'",
    ),
    "an unknown metric": (lambda t: t.search([0.0] * 4, metric="l1"), "unknown metric 'l1'.*l2, cosine, ip"),
    "a recall of zero": (lambda t: t.search([0.0] * 4, recall=0), "recall must be above 0"),
    "a recall above one": (lambda t: t.search([0.0] * 4, recall=1.1), "recall must be above 0 and at most 1"),
    "a filter of a search": (lambda t: t.search([0.0] * 4, where="nope = 1"), "nope"),
    "an index of an unknown column": (lambda t: t.create_index("w"), "no column 'w'"),
    "an index of numbers": (lambda t: t.create_index("price"), "'price' has the type float.*not a vector"),
    "an index of an unknown metric": (
        lambda t: t.create_index("v", "manhattan"),
        "unknown metric 'manhattan'",
    ),
    "an unknown index option": (
        lambda t: t.create_index("v", list=3),
        "unknown index option 'list'.*lists, seed",
    ),
    "an index option out of range": (
        lambda t: t.create_index("v", lists=0),
        "'lists' is 0.*whole number from 1",
    ),
    "an index option of another type": (
        lambda t: t.create_index("v", lists="8"),
        "'lists' is '8'.*whole number from 1",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_wrong_arguments_are_refused(name: str, read_only: lake.Table) -> None:
    call, message = BAD_CALLS[name]
    before = files(read_only.uri)
    with pytest.raises((InvalidInputError, UnsupportedError), match=message):
        call(read_only)
    assert files(read_only.uri) == before


BAD_SCHEMAS: dict[str, tuple[Any, str]] = {
    "no schema": ({"id": "int"}, r"must be a pyarrow\.Schema, not dict"),
    "no columns": (pa.schema([]), "no columns"),
    "a name twice": (pa.schema([("a", pa.int8()), ("a", pa.int8())]), "'a' and 'a'"),
    "names that differ in case": (pa.schema([("a", pa.int8()), ("A", pa.int8())]), "'a' and 'A'"),
    "an empty name": (pa.schema([("", pa.int8())]), "without a name"),
    "a reserved name": (pa.schema([("_distance", pa.int8())]), "'_distance' is reserved"),
    "a struct's names": (
        pa.schema([("s", pa.struct([("x", pa.int8()), ("X", pa.int8())]))]),
        "'s'.*'x' and 'X'",
    ),
    "a vector of dimension 0": (
        pa.schema([("v", pa.list_(pa.float32(), 0))]),
        "'v' has vectors of dimension 0",
    ),
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_schemas_that_no_table_can_have(name: str, tmp_path: Path) -> None:
    """spec: SCH-7"""
    schema, message = BAD_SCHEMAS[name]
    with pytest.raises(InvalidInputError, match=message):
        lake.create(str(tmp_path / "t"), schema)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"write.scalar-fromat": "vortex"}, "unknown table property.*did you mean 'write.scalar-format'"),
        ({"write.scalar-format": "orc"}, "'write.scalar-format' is 'orc'.*'vortex' or 'parquet'"),
        ({"write.fragment-rows": 0}, "'write.fragment-rows' is '0'.*at least 1"),
        ({"write.fragment-bytes": "many"}, "'write.fragment-bytes' is 'many'"),
    ],
)
def test_properties_that_no_table_has(properties: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=message):
        lake.create(str(tmp_path / "t"), SCHEMA, properties=properties)
    assert not (tmp_path / "t").exists()


def test_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.parquet").write_bytes(b"PAR1")
    for uri in (tmp_path / "folder", tmp_path / "nowhere", "memory://nowhere"):
        with pytest.raises(NotFoundError, match=r"there is no table at .*lake\.create"):
            lake.open(str(uri))
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(LakeError):
        lake.open(str(tmp_path / "file"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("uri", ["", "  ", "ftp://host/t", "s3://", "s3://user:secret@bucket/t", "memory://"])
def test_places_that_are_none(uri: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        lake.open(uri)
    assert "secret" not in str(caught.value)


def test_a_table_that_is_there_already(table: lake.Table) -> None:
    before = files(table.uri)
    with pytest.raises(AlreadyExistsError, match=r"there is a table at .*lake\.open"):
        lake.create(table.uri, SCHEMA)
    assert files(table.uri) == before


def test_versions_that_are_none(table: lake.Table) -> None:
    with pytest.raises(NotFoundError, match=r"no version 9.*versions\(\)"):
        lake.open(table.uri, version=9)
    for version in (0, -1, "2", 1.0, True):
        with pytest.raises(InvalidInputError, match="version must be a positive whole number"):
            lake.open(table.uri, version=version)  # type: ignore[arg-type]


def test_an_old_version_is_not_written_to(table: lake.Table) -> None:
    old = lake.open(table.uri, version=1)
    before = files(table.uri)
    for write in (lambda: old.append(data()), lambda: old.create_index("v")):
        with pytest.raises(UnsupportedError, match=r"opened at version 1.*without a version"):
            write()
    assert files(table.uri) == before
    assert old.refresh().version == 1


def test_row_ids_that_no_row_has(table: lake.Table) -> None:
    for missing in ([20], [3, 99, 2**62], np.array([2**64 - 1], np.uint64)):
        with pytest.raises(NotFoundError, match="row ids have no row in version 2"):
            table.take(missing)
    assert table.take([]).num_rows == 0


def test_an_empty_table(tmp_path: Path) -> None:
    table = lake.create(str(tmp_path / "t"), SCHEMA)
    assert (table.count(), table.count("price > 1"), table.to_arrow().num_rows) == (0, 0, 0)
    assert len(table.search([0.0] * 4, k=5)) == 0
    assert len(table.search([[0.0] * 4] * 3, k=5, exact=True)) == 0
    with pytest.raises(InvalidInputError, match=r"'v' has no vectors to index.*append"):
        table.create_index("v")
    with pytest.raises(NotFoundError):
        table.take([0])
    assert table.version == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", [20, 1500])
def test_values_that_cannot_be_indexed(bad: float, rows: int, tmp_path: Path) -> None:
    table = lake.create(str(tmp_path / "t"), SCHEMA).append(data(rows))
    table.append(row(v=[0.0, bad, 0.0, 0.0]))
    before = files(table.uri)
    with pytest.raises(InvalidInputError, match=f"row id {rows} of column 'v'"):
        table.create_index("v")
    assert files(table.uri) == before
    assert len(table.search([0.0] * 4, k=rows + 1)) == rows + 1  # searched flat, the row is there, at the end


def test_k_larger_than_the_table(table: lake.Table) -> None:
    for prepared in (table, table.create_index("v")):
        found = prepared.search([0.0] * 4, k=1000).to_arrow()
        assert sorted(found.column("id").to_pylist()) == list(range(20))
        distances = found.column("_distance").to_pylist()
        assert distances == sorted(distances)


def test_a_column_must_be_named_where_several_could_be_meant(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.list_(pa.float32(), 2)), ("b", pa.list_(pa.float32(), 2)), ("n", pa.int8())])
    table = lake.create(str(tmp_path / "t"), schema)
    with pytest.raises(InvalidInputError, match=r"several vector columns: 'a', 'b'.*column="):
        table.search([0.0, 0.0])
    plain = lake.create(str(tmp_path / "u"), pa.schema([("n", pa.int8())]))
    with pytest.raises(InvalidInputError, match="no vector column"):
        plain.search([0.0])


def damaged(path: Path, how: str) -> None:
    good = path.read_bytes()
    middle = len(good) // 2
    bad = {
        "empty": b"",
        "half": good[:middle],
        "one byte less": good[:-1],
        "noise": bytes(len(good)),
        "longer": good + b"x",
        "a byte in the middle": good[:middle] + bytes([good[middle] ^ 0xFF]) + good[middle + 1 :],
    }
    path.write_bytes(bad[how])


def reads(uri: str) -> list[tuple[str, Any]]:
    """Everything a reader may ask, each on a newly opened table: name and outcome."""
    questions: list[tuple[str, Call]] = [
        ("scan", lambda t: t.to_arrow().to_pylist()),
        ("take", lambda t: t.take([1100, 3]).to_pylist()),
        ("search", lambda t: t.search([7.0] * 4, k=3).to_arrow().to_pylist()),
        ("exact", lambda t: t.search([7.0] * 4, k=3, exact=True).to_arrow().to_pylist()),
        ("count", lambda t: t.count("id < 5")),
    ]
    found = []
    for name, ask in questions:
        try:
            found.append((name, ask(lake.open(uri))))
        except LakeError as error:
            found.append((name, error))
    return found


@pytest.mark.parametrize("how", ["empty", "half", "one byte less", "noise", "longer", "a byte in the middle"])
def test_damaged_objects_are_never_another_error(how: str, tmp_path: Path) -> None:
    """Each object of a table in turn: reads give the right answer or a LakeError. spec: TAB-2, MAN-4

    Except for raw vectors altered in a file that keeps its size: reads cannot check those, verify() can.
    """
    table = lake.create(str(tmp_path / "t"), SCHEMA, properties={"write.scalar-format": "vortex"})
    table.append(data(1200)).create_index("v", lists=4).append(row(id=5000))
    right = reads(table.uri)
    assert not [error for _, error in right if isinstance(error, LakeError)]
    Path(table.uri, "_lake/latest").unlink()  # so that version objects themselves are read
    touched = []
    for path in sorted(Path(table.uri).rglob("*.*")):
        good = path.read_bytes()
        damaged(path, how)
        found = reads(table.uri)
        refused = [name for name, outcome in found if isinstance(outcome, LakeError)]
        for (name, outcome), (_, expected) in zip(found, right, strict=True):
            if isinstance(outcome, LakeError):
                assert isinstance(outcome, CorruptionError | NotFoundError | UnsupportedError), repr(outcome)
            elif how not in ("a byte in the middle", "noise") or path.suffix != ".parquet":
                assert outcome == expected, (path, name)
        touched.append((path.suffix, refused))
        path.write_bytes(good)
    refusing = {suffix for suffix, refused in touched if refused}
    assert refusing >= {".lake"} | ({".vortex"} if how != "longer" else set())
    assert reads(table.uri) == right
