"""What is kept of a computed column: checked when it is written and when it is read, and refused by who knows it not.

spec: SCH-10
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pyarrow as pa
import pytest
from conftest import Location
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_reader import unpack, version_path
from test_computed_columns import make, refused, rows
from test_golden import ROOT as GOLDEN
from test_golden import expected

import lake_format as lake
from lake_engines.predicate import parse_sql
from lake_engines.predicate.stored import bind_stored, stored_expression
from lake_format import codec
from lake_format.codec import encode_version
from lake_format.computed_columns import COMPUTED_FEATURE
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.expressions import identifier_sql
from lake_format.paths import version_path as version_name
from lake_format.schema import COMPUTED_KEY, assign_field_ids, field_id


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location)


def stored(table: lake.Table, name: str) -> bytes:
    return table.snapshot.schema.field(name).metadata[COMPUTED_KEY]


def test_what_is_kept(table: lake.Table) -> None:
    """spec: SCH-10"""
    ids = [field_id(table.snapshot.schema.field(name)) for name in ("price", "amount")]
    assert json.loads(stored(table, "total")) == {"sql": "$1 * $2", "inputs": ids}
    assert COMPUTED_KEY not in (table.schema.field("total").metadata or {})


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{}",
        b'{"sql": "$1 * $2", "inputs": [2]}',
        b'{"sql": "$1 * $2", "inputs": [2, 99]}',
        b'{"sql": "$1 *", "inputs": [2]}',
        b'{"sql": "$1", "inputs": [4]}',
        b'{"sql": "price", "inputs": []}{',
        b'{"sql": "absent", "inputs": []}',
        b'{"sql": "1", "inputs": [-1]}',
        b'{"sql": "' + b"1" * 5000 + b'", "inputs": []}',
        b'{"sql": "' + b"(" * 4000 + b'", "inputs": []}',
        b"[" * 16_000,
    ],
)
def test_damaged_expressions_stop_writers_not_readers(table: lake.Table, damaged: bytes) -> None:
    """spec: SCH-10"""
    schema = table.snapshot.schema
    field = schema.field("total")
    at = schema.get_field_index("total")
    version = table.snapshot.version
    bad = schema.set(at, field.with_metadata({**field.metadata, COMPUTED_KEY: damaged}))
    number, schemas = version.version + 1, {**version.schemas, version.schema_id: bad}
    stored = replace(version, version=number, parent=version.version, schemas=schemas, commit_id="x")
    table.snapshot.store.create(version_name(number), encode_version(stored))
    table.refresh()
    assert table.to_arrow()["total"].null_count == 4
    with pytest.raises((CorruptionError, InvalidInputError)):
        table.append(rows(50))
    with pytest.raises((CorruptionError, InvalidInputError)):
        table.update({"price": 1.0, "at": None}, "id = 1")
    assert lake.open(table.uri).count() == 20


def test_a_release_that_does_not_know_them_refuses(
    table: lake.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """spec: TAB-6"""
    monkeypatch.setattr(codec, "KNOWN_FEATURES", codec.KNOWN_FEATURES - {COMPUTED_FEATURE})
    refused(UnsupportedError, "computed-columns", lambda: lake.open(table.uri))


def test_a_stored_table_says_what_its_columns_are_computed_by() -> None:
    """spec: SCH-10 — as the specification's reader finds it, and as our writers go on from it."""
    rows, facts = expected("computed-columns")
    description, _ = unpack(version_path(GOLDEN / "computed-columns", 8).read_bytes())
    assert "computed-columns" in description["required_features"]
    schema = pa.ipc.read_schema(
        pa.py_buffer(base64.b64decode(description["schemas"][str(description["schema_id"])]))
    )
    ids = {int(field.metadata[b"PARQUET:field_id"]): field.name for field in schema}
    found = {field.name: json.loads(field.metadata.get(b"lake.expression", "null")) for field in schema}
    told = {name: [own["sql"], [ids[one] for one in own["inputs"]]] for name, own in found.items() if own}
    assert told == facts["computed"]
    table = lake.open(str(GOLDEN / "computed-columns"))
    assert table.inspect.columns()["computed"].to_pylist() == [
        None,
        None,
        None,
        'upper("$1")',
        "(id * 10) - 5",
    ]
    assert table.count('upper = upper("$1") OR ("$1" IS NULL AND upper IS NULL)') == rows.num_rows
    assert table.count("far = id * 10 - 5") == rows.num_rows


_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


@given(names=st.lists(_NAMES, min_size=3, max_size=3, unique_by=str.casefold), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_names_are_kept_and_spelled_again(names: list[str], data: st.DataObject) -> None:
    fields = [
        (names[0], pa.int64()),
        (names[1], pa.string()),
        (names[2], pa.struct([(names[0], pa.int32())])),
    ]
    schema, _ = assign_field_ids(pa.schema(fields), 7)
    text = data.draw(
        st.sampled_from(["{0} + {2} * {0}", "{1} = '$1 \"$2\"' OR {0} IN (1, 2)", "coalesce({2}, {0})"])
    )
    spelled = [identifier_sql(path) for path in ((names[0],), (names[1],), (names[2], names[0]))]
    written = text.format(*spelled)
    kept = stored_expression(written, schema)
    assert kept.text(schema) == str(parse_sql(written))
    renamed = pa.schema([field.with_name(f"new {field.name}") for field in schema])
    assert len(bind_stored(kept, renamed, "c").columns) == len(set(kept.inputs))
