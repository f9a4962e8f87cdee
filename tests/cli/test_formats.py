"""Values through the command line: valid JSON and CSV for every type, and back without loss."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_connectors.cli import run
from lake_connectors.cli.decode import decoded, json_wire_type, parsed_json_column
from lake_connectors.cli.output import bytes_text
from lake_connectors.cli.schema_text import parse_schema, schema_text, type_text
from lake_connectors.cli.texts import json_texts, plain_texts, short_texts
from lake_format.errors import InvalidInputError

UTC = datetime.UTC
NESTED = pa.struct([("a", pa.int32()), ("b", pa.list_(pa.date32()))])
COLUMNS: dict[str, pa.Array] = {
    "int8": pa.array([1, None, -128], pa.int8()),
    "uint64": pa.array([2**64 - 1, 0, None], pa.uint64()),
    "int64": pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
    "float16": pa.array([0.5, None, 1.0], pa.float16()),
    "float32": pa.array([0.1, None, 1e30], pa.float32()),
    "float64": pa.array([0.1, 1 / 3, None], pa.float64()),
    "bool": pa.array([True, None, False]),
    "string": pa.array(['a,"b"\n\t', "", None]),
    "blanks": pa.array([" x ", "NULL", "\\ü\u2028\x07"]),
    "large_string": pa.array(["x", None, "null"], pa.large_string()),
    "binary": pa.array([b"\xff\x00", b"", None]),
    "fixed_binary": pa.array([b"abc", None, b"\xff\x00z"], pa.binary(3)),
    "decimal": pa.array([Decimal("1.50"), None, Decimal("-99999999.99")], pa.decimal128(10, 2)),
    "date": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1900, 1, 1)]),
    "time_us": pa.array([datetime.time(1, 2, 3, 4), None, datetime.time(0)], pa.time64("us")),
    "time_s": pa.array([datetime.time(23, 59, 59), None, datetime.time(0)], pa.time32("s")),
    "timestamp": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, 6), None, datetime.datetime(1969, 1, 1)]),
    "zoned": pa.array([1_700_000_000_123_456_789, None, -1], pa.timestamp("ns", "Europe/Berlin")),
    "duration": pa.array([1500, None, -1], pa.duration("ms")),
    "dictionary": pa.array(["x", None, "y"]).dictionary_encode(),
    "struct": pa.array([{"a": 1, "b": [datetime.date(2024, 1, 1)]}, None, {"a": None, "b": None}], NESTED),
    "list": pa.array([["a", None], None, []], pa.list_(pa.string())),
    "list_of_lists": pa.array([[[b"a"], None, []], None, []], pa.list_(pa.list_(pa.binary()))),
    "map": pa.array([[("k", 1.5), ("l", None)], None, []], pa.map_(pa.string(), pa.float64())),
    "vector": pa.array([[0.1, -0.2], None, [1, 2]], pa.list_(pa.float32(), 2)),
    "half_vector": pa.array([[0.5, 0.25], None, [1, 2]], pa.list_(pa.float16(), 2)),
}


def strict_json(text: str) -> Any:
    """JSON as the standard has it: Python's own reader would also take NaN."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("output_format", ["json", "csv"])
def test_every_type_survives_the_way_out_and_back(
    output_format: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    original = pa.table(COLUMNS)
    source, target, file = tmp_path / "source", tmp_path / "target", tmp_path / f"rows.{output_format}"
    lake.create(str(source), original.schema).append(original)
    assert run(["scan", str(source), "--format", output_format]) == 0
    text = capfdbinary.readouterr().out
    file.write_bytes(text)
    if output_format == "json":
        lines = [strict_json(line) for line in text.decode().split("\n") if line]
        assert [list(line) for line in lines] == [list(COLUMNS)] * 3
    lake.create(str(target), original.schema)
    assert run(["append", str(target), str(file)]) == 0, capfdbinary.readouterr().err
    back = lake.open(str(target)).to_arrow()
    different = [name for name in COLUMNS if not back.column(name).equals(original.column(name))]
    assert not different, {name: back.column(name).to_pylist() for name in different}


@pytest.mark.parametrize(
    ("array", "texts"),
    [
        (
            pa.array([math.nan, math.inf, -math.inf, -0.0, 5.0]),
            ['"NaN"', '"Infinity"', '"-Infinity"', "-0", "5"],
        ),
        (pa.array([0.1, 16777216.0], pa.float32()), ["0.1", "16777216"]),
        (pa.array([b"\xfb\xff", None]), ['"+/8="', "null"]),
        (pa.array([1, -1500], pa.duration("ms")), ['"PT0.001S"', '"-PT1.5S"']),
        (pa.array([90], pa.duration("s")), ['"PT90S"']),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())), ['[{"key": "a", "value": 1}]']),
        (pa.array([Decimal("1E+3")], pa.decimal128(5, -2)), ["1000"]),
        (pa.array([0], pa.timestamp("s", "Asia/Tokyo")), ['"1970-01-01T00:00:00Z"']),
        (pa.array([{"ü\n": None}]), ['{"ü\\n": null}']),
        (
            pa.array([(1, 2, 500_000_000), (0, -3, 0)], pa.month_day_nano_interval()),
            ['"P1M2DT0.5S"', '"P0M-3D"'],
        ),
        (pa.nulls(2), ["null", "null"]),
        (pa.array([[[1], None], []], pa.list_(pa.list_(pa.int8(), 1))), ["[[1], null]", "[]"]),
    ],
)
def test_json_of_special_values(array: pa.Array, texts: list[str]) -> None:
    assert json_texts(array) == texts
    for text in texts:
        strict_json(text)


def test_slices_and_nulls_do_not_shift_values() -> None:
    for name, array in COLUMNS.items():
        whole = json_texts(array)
        assert json_texts(array.slice(1)) == whole[1:], name
        assert json_texts(array.slice(2, 1)) == whole[2:], name
        assert [text is None for text in plain_texts(array)] == [not value.is_valid for value in array], name


@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=5), max_size=4), max_size=6))
@settings(max_examples=60, deadline=None)
def test_lists_of_any_text_are_json(values: list[list[str | None] | None]) -> None:
    array = pa.array(values, pa.list_(pa.string()))
    assert [strict_json(text) for text in json_texts(array)] == values


def test_short_texts_are_short_and_say_what_is_missing() -> None:
    vector = pa.array([[0.123456789] * 784], pa.list_(pa.float32(), 784))
    assert short_texts(vector) == ["[0.123457, 0.123457, 0.123457, … 784 in all]"]
    assert short_texts(pa.array([[1, None]])) == ["[1, NULL]"]
    (text,) = short_texts(pa.array(["word\n" * 100]))
    assert text is not None
    assert len(text) == 60
    assert "\n" not in text


def test_bytes_for_people() -> None:
    sizes = [0, 999, 1000, 99_949, 99_950, 1_234_567, 47_040_000, 5_000_000_000_000]
    shown = ["0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "1.2 MB", "47.0 MB", "5.0 TB"]
    assert [bytes_text(size) for size in sizes] == shown


# --- reading text back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "text", "words"),
    [
        (pa.binary(), "no base64!", "is not base64"),
        (pa.duration("s"), "5 minutes", "no duration"),
        (pa.duration("s"), "PT0.5S", "finer than"),
        (pa.date32(), "yesterday", "yesterday"),
        (pa.time64("us"), "25:00", "time64"),
    ],
)
def test_text_that_is_no_such_value_is_refused_with_the_column(
    wanted: pa.DataType, text: str, words: str
) -> None:
    with pytest.raises(InvalidInputError, match="column 'when'") as caught:
        decoded(pa.array([text]), wanted, "when")
    assert words in str(caught.value)


def test_a_cell_that_is_no_json_is_refused_with_the_column() -> None:
    with pytest.raises(InvalidInputError, match="column 'vec'"):
        parsed_json_column(pa.array(["[1, 2"]), json_wire_type(pa.list_(pa.float32(), 2)), "vec")


# --- schemas as text ----------------------------------------------------------------------------------------

UNITS = st.sampled_from(["s", "ms", "us", "ns"])
LEAVES = st.one_of(
    st.sampled_from(
        [pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.string(), pa.binary()]
    ),
    st.sampled_from([pa.date32(), pa.large_string(), pa.binary(16), pa.time32("s"), pa.time64("ns")]),
    st.builds(pa.timestamp, UNITS, st.sampled_from([None, "UTC", "Europe/Berlin", "+02:00"])),
    st.builds(pa.duration, UNITS),
    st.builds(pa.decimal128, st.integers(1, 38), st.integers(-3, 5)),
    st.builds(pa.list_, st.sampled_from([pa.float32(), pa.float16()]), st.integers(1, 2000)),
)
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name.strip() == name and "\x00" not in name)


def nested_of(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    fields = st.lists(st.builds(pa.field, NAMES, inner, st.booleans()), min_size=1, max_size=3)
    maps = st.builds(pa.map_, st.sampled_from([pa.string(), pa.int64()]), inner)
    return st.one_of(st.builds(pa.list_, inner), st.builds(pa.struct, fields), maps)


SCHEMAS = st.lists(
    st.builds(pa.field, NAMES, st.recursive(LEAVES, nested_of, max_leaves=5), st.booleans()),
    min_size=1,
    max_size=4,
).map(pa.schema)


@given(SCHEMAS)
@settings(max_examples=200, deadline=None)
def test_schema_text_is_read_back_as_the_same_schema(schema: pa.Schema) -> None:
    assert parse_schema(schema_text(schema)).equals(schema), schema_text(schema)


@pytest.mark.parametrize(
    ("text", "data_type"),
    [
        ("INT", pa.int64()),
        ("text", pa.string()),
        ("Vector(128)", pa.list_(pa.float32(), 128)),
        ("vector(4, float16)", pa.list_(pa.float16(), 4)),
        ("decimal(10,2)", pa.decimal128(10, 2)),
        ("timestamp", pa.timestamp("us")),
        ("timestamp(ms, UTC)", pa.timestamp("ms", "UTC")),
        ("map<string,list<int64>>", pa.map_(pa.string(), pa.list_(pa.int64()))),
        ("dictionary<string>", pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_types_people_write(text: str, data_type: pa.DataType) -> None:
    assert parse_schema(f"c {text}").field("c").type == data_type
    assert parse_schema(f'"c": {text} NOT NULL').field("c") == pa.field("c", data_type, False)
    assert parse_schema(f"c {type_text(data_type)}").field("c").type == data_type


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a column name"),
        ("id", "expected a type"),
        ("id int64,", "expected a column name"),
        ("id int64 vec vector(3)", "expected ',' or the end"),
        ("id int46", "did you mean 'int64'"),
        ("vec vector", "expected '('"),
        ("vec vector(many)", "the vector's dimension"),
        ("vec vector(3, float64)", "float32 or float16"),
        ("vec vector(3", "expected ')'"),
        ("t timestamp(hours)", "units are s, ms, us, ns"),
        ("t time(us, UTC)", "no time zone"),
        ("d decimal(99, 2)", "type 'decimal'"),
        ("id int64 not zero", "expected 'null' after 'not'"),
        ("id int64; x int64", "unexpected ';'"),
    ],
)
def test_a_schema_text_that_cannot_be_read_says_where(text: str, words: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_schema(text)
    assert words in str(caught.value)
    assert caught.value.fix
