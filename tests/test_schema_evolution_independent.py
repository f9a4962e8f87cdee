"""An evolved table read by the specification alone: files in their own schema, matched by id in plain Python."""

from __future__ import annotations

import base64
from typing import Any

import independent_reader as reader
import numpy as np
import pyarrow as pa
import pytest
from conftest import Location

import lake_format as lake
from lake_format.expressions import sql

ID = b"PARQUET:field_id"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int32(), False),
        ("s", pa.struct([("a", pa.int8()), ("b", pa.string()), ("t", pa.struct([("x", pa.float32())]))])),
        ("l", pa.list_(pa.struct([("p", pa.int16()), ("q", pa.string())]))),
        ("m", pa.map_(pa.string(), pa.struct([("n", pa.int32())]))),
        ("price", pa.float64()),
        ("v", pa.list_(pa.float32(), 3)),
    ]
)


def _projected(value: Any, written: pa.Field, now: pa.Field) -> Any:
    """EVO-2 on a Python value."""
    if value is None:
        return None
    kind = now.type
    if pa.types.is_struct(kind):
        held = {field.metadata[ID]: field for field in written.type}
        return {
            field.name: None
            if field.metadata[ID] not in held
            else _projected(value[held[field.metadata[ID]].name], held[field.metadata[ID]], field)
            for field in kind
        }
    if pa.types.is_map(kind):
        inner = written.type.item_field, kind.item_field
        return [(key, _projected(item, *inner)) for key, item in value]
    if pa.types.is_list(kind):
        return [_projected(one, written.type.value_field, kind.value_field) for one in value]
    return value


def _rows(location: str) -> list[dict[str, Any]]:
    root = reader.Path(location)
    description, tail = reader.unpack(reader.version_path(root, reader.latest(root)).read_bytes())
    schemas = {
        int(key): pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
        for key, text in description["schemas"].items()
    }
    now = schemas[description["schema_id"]]
    rows: list[dict[str, Any]] = []
    for fragment in reader.fragments(root, description, tail):
        count = fragment["row_count"]
        unheld = zip(*(reader.unheld(field, count).to_pylist() for field in now), strict=True)
        found = [dict(zip(now.names, values, strict=True)) for values in unheld]
        for group in fragment["groups"]:
            schema = schemas[group["schema_id"]]
            table = reader.read_group({"": root}, group, schema, count)
            for identity, column in zip(group["field_ids"], table.columns, strict=True):
                field = next((one for one in now if int(one.metadata[ID]) == identity), None)
                if field is None:
                    continue  # dropped, or superseded
                written = next(one for one in schema if int(one.metadata[ID]) == identity)
                for row, value in zip(found, column.to_pylist(), strict=True):
                    row[field.name] = _projected(value, written, field)
        live = np.ones(count, bool)
        if fragment["deletions"] is not None:
            live[reader.roaring64(fragment["deletions"]).astype(np.int64)] = False
        rows += [row for row, alive in zip(found, live, strict=True) if alive]
    return rows


def test_the_specification_suffices(local_location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """spec: EVO-2, EVO-6, EVO-7, MAN-3"""
    monkeypatch.setattr(reader, "FEATURES", reader.FEATURES | {"evolved-types"})
    table = lake.create(
        local_location.uri, SCHEMA, properties={"write.fragment-rows": 5, "write.update-strategy": "rewrite"}
    )

    def rows(first: int, schema: pa.Schema, **more: Any) -> pa.Table:
        made = [
            {
                "id": i,
                "s": None if i % 5 == 1 else {"a": i, "b": f"b{i}", "t": None if i % 2 else {"x": i / 2}},
                "l": None if i % 3 == 0 else [{"p": i, "q": None}, None][: i % 3],
                "m": [(f"k{i}", {"n": i}), ("z", None)][: i % 3],
                "price": i / 4,
                "v": None if i % 4 == 3 else [i, 0, 1],
                **more,
            }
            for i in range(first, first + 12)
        ]
        return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in made], schema)

    table.append(rows(0, table.schema))
    table.widen_column("id", pa.int64()).widen_column("l.item.p", pa.int64()).rename_column("s.b", "bee")
    table.drop_column("s.a").add_column("s.a", pa.string()).reorder_columns(["a"], within="s")
    table.add_column("m.value.new", pa.bool_()).widen_column("s.t.x", pa.float64())
    table.append(rows(100, table.schema, s={"a": "new", "t": {"x": 1e300}, "bee": "B"}))
    other = lake.open(table.uri)
    table.add_column("first", values=sql("id + 1"))
    other.add_column("second", pa.string(), "same")  # takes the next ids, so its files bear other ones
    table.refresh().backfill("price", sql("price * 2"), "id % 2 = 0")
    table.delete("id % 7 = 3")
    table.update({"price": -1.0}, "id = 105")
    table.add_column("s.t.late", pa.int8()).reorder_columns(["v", "second"]).drop_column("m")
    expected = table.to_arrow().to_pylist()
    assert len(expected) == 24 - 4
    by_id = {row["id"]: row for row in _rows(table.uri)}
    assert [by_id[row["id"]] for row in expected] == expected
    assert {row["second"] for row in expected} == {"same"}
