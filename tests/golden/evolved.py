"""Golden tables of changed columns: renamed, rewritten, patched, declared, widened, and vectors that others wrote."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from golden.making import Golden, simple_rows, vectors, with_nulls
from lake_engines import DefaultEngine
from lake_format.changes import AddFragments
from lake_format.engine import WriteRequest
from lake_format.manifest import inline_manifest
from lake_format.model import ColumnGroup, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.paths import data_path
from lake_format.schema import FIELD_ID_KEY, field_id


def schema_changes(golden: Golden) -> None:
    """A column renamed, one dropped, one added after the files were written: fields are matched by id."""
    rows = simple_rows(4)
    table = golden.create(rows.schema)
    table.append(rows)
    old = table.snapshot.schema
    renamed = pa.field("label", old.field("name").type, True, old.field("name").metadata)
    added = pa.field(
        "extra", pa.float64(), True, {FIELD_ID_KEY: str(table.snapshot.version.next_field_id).encode()}
    )
    new = pa.schema([added, renamed, old.field("id")])
    version = table.snapshot.version
    golden.land(
        table, schemas={**version.schemas, 1: new}, schema_id=1, next_field_id=version.next_field_id + 1
    )
    columns = [pa.nulls(4, pa.float64()), rows.column("name"), rows.column("id")]
    plain = pa.schema([("extra", pa.float64()), ("label", pa.string()), pa.field("id", pa.int64(), False)])
    golden.expect(pa.table(columns, plain), range(4), fragments=1)


def superseded_columns(golden: Golden) -> None:
    """A column whose values were rewritten into a group of its own: the old file still has it."""
    rows = simple_rows(6)
    table = golden.create(rows.schema)
    table.append(rows)
    version = table.snapshot.version
    name = version.schema.field("name")
    request = WriteRequest(
        data={"name": pa.array(["new", None, "newer", "", "x", None])},
        schema=pa.schema([name]),
        schema_id=0,
        properties={},
        new_id=golden.surroundings.new_id,
    )
    (new,) = DefaultEngine().write(table.snapshot.store, request).fragments
    (fragment,) = table.snapshot.fragments.fragments()
    old = [replace(g, superseded=frozenset({2} & set(g.field_ids))) for g in fragment.groups]
    golden.land(
        table,
        manifests=(inline_manifest([replace(fragment, groups=(*old, *new.groups))]),),
        required_features=version.required_features | {"superseded-columns"},
    )
    golden.expect(rows.set_column(1, name.remove_metadata(), request.data["name"]), range(6), fragments=1)


def patch_files(golden: Golden) -> None:
    """Patches over two fragments from one file, over each other, of vectors, of a column that no file has."""
    rows = simple_rows(48)
    patching = {"write.fragment-rows": "24", "write.update-strategy": "patch"}
    table = golden.create(rows.schema, **patching).append(rows).add_column("note", pa.string())
    values = {name: rows.column(name).to_pylist() for name in rows.schema.names} | {"note": [None] * 48}
    for number, (places, new) in enumerate(
        [
            ((3, 5, 30), {"name": "both", "v": [0.5, 1.5, -2.0, 0.0]}),
            ((5, 31), {"name": None, "v": None}),
            ((5, 30), {"v": [8.0, 0.25, 0.0, 1.0]}),
            ((3, 5, 30), {"name": "again", "note": "here"}),
            ((47,), {"note": "there"}),
        ]
    ):
        changed = table.update(new, f"id IN ({', '.join(map(str, places))})")
        assert changed.strategy == "patch", number
        for name, value in new.items():
            for place in places:
                values[name][place] = value
    table.delete("id = 3")
    schema = rows.schema.append(pa.field("note", pa.string()))
    kept = [row for row in range(48) if row != 3]
    golden.expect(pa.table(values, schema).take(kept), kept, fragments=2)


def column_defaults(golden: Golden) -> None:
    """Constants in no file; rows of writers who knew of them and who did not, a patch over them, a rewrite."""
    data = simple_rows(32)
    table, stale = golden.create(data.schema, **{"write.update-strategy": "patch"}), golden.open()
    table.append(data.slice(0, 24)).add_column("n", pa.int16(), 7, nullable=False)
    table.add_column("note", values="as ever").add_column("ratio", values=0.5)
    stale.append(data.slice(24, 4))  # planned before the columns were declared
    table.refresh().append(data.slice(28).append_column("n", pa.array([1, 2, 3, 4], pa.int16())))
    table.update({"note": "patched"}, "id IN (2, 20)")
    table.set_properties({"write.update-strategy": "rewrite"}).update({"n": -1}, "id = 25")
    note = ["patched" if row in (2, 20) else "as ever" if row < 28 else None for row in range(32)]
    n = pa.array([*[7] * 25, -1, 7, 7, 1, 2, 3, 4], pa.int16())
    rows = data.append_column(pa.field("n", pa.int16(), False), n).append_column("note", pa.array(note))
    golden.expect(rows.append_column("ratio", pa.array([0.5] * 28 + [None] * 4)), range(32), fragments=3)


def evolved_types(golden: Golden) -> None:
    """Types widened at every depth, members renamed, added, dropped and moved, a dropped name that came back."""
    inner = pa.struct([("x", pa.int8()), ("gone", pa.string()), ("y", pa.float32())])
    schema = pa.schema(
        [
            pa.field("id", pa.int16(), False),
            ("at", pa.timestamp("s")),
            ("inner", inner),
            ("list", pa.list_(pa.struct([("n", pa.int32())]))),
            ("back", pa.string()),
            ("v", pa.list_(pa.float16(), 2)),
        ]
    )
    table = golden.create(schema, **{"write.update-strategy": "patch"})
    table.append([_evolving(row) for row in range(24)])
    table.widen_column("id", pa.int64()).widen_column("inner.x", pa.int32()).widen_column(
        "at", pa.timestamp("ms")
    )
    table.widen_column("list.item.n", pa.int64()).widen_column("v", pa.list_(pa.float32(), 2))
    table.drop_column("inner.gone").rename_column("inner.x", "wide").add_column("inner.late", pa.bool_())
    table.reorder_columns(["y"], within="inner").drop_column("back").add_column("back", pa.string())
    new = {"inner": {"y": 0.5, "wide": 1 << 20, "late": True}, "back": "new"}
    later = [_evolving(row) | new | {"id": 1 << 40 | row} for row in (24, 25)]
    table.append(later).update({"back": "patched", "id": 1 << 50}, "id = 3")
    expected = [_evolved(row) for row in map(_evolving, range(24))] + later
    wide = pa.struct([("y", pa.float32()), ("wide", pa.int32()), ("late", pa.bool_())])
    shown = pa.schema(
        [
            pa.field("id", pa.int64(), False),
            ("at", pa.timestamp("ms")),
            ("inner", wide),
            ("list", pa.list_(pa.struct([("n", pa.int64())]))),
            ("v", pa.list_(pa.float32(), 2)),
            ("back", pa.string()),
        ]
    )
    golden.expect(pa.Table.from_pylist(expected, shown), range(26), fragments=2)


def _evolved(row: dict[str, Any]) -> dict[str, Any]:
    """A row of before as it is told now."""
    old, patched = row["inner"], row["id"] == 3
    inner = old and {"y": old["y"], "wide": old["x"], "late": None}
    changed = {"back": "patched", "id": 1 << 50} if patched else {"back": None}
    return row | {"inner": inner} | changed


def _evolving(row: int) -> dict[str, Any]:
    return {
        "id": row,
        "at": None if row % 5 == 1 else datetime(2024, 1, 1 + row),
        "inner": None if row % 6 == 2 else {"x": row - 9, "gone": f"gone {row}", "y": row / 4},
        "list": None if row % 7 == 3 else [{"n": one} if one else None for one in range(row % 3)],
        "back": f"old {row}",
        "v": [row / 2, -1.0],
    }


def listed_vectors(golden: Golden) -> None:
    """A Parquet file of another writer, in which vectors are lists of narrower floats, beside rows of our own."""
    rows = simple_rows(6)
    rows = rows.set_column(2, "v", with_nulls(vectors(6, 4, 5), [1]))
    table = golden.create(rows.schema, **{"write.layout": "open"})
    path = data_path(golden.surroundings.new_id(), "parquet")
    columns = [
        field.with_metadata({FIELD_ID_KEY: field.metadata[FIELD_ID_KEY]}) for field in table.snapshot.schema
    ]
    columns[2] = columns[2].with_type(pa.list_(pa.field("element", pa.float16())))
    foreign = pa.schema(columns)
    Path(golden.uri, path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.cast(foreign), Path(golden.uri, path))
    size = Path(golden.uri, path).stat().st_size
    group = ColumnGroup(
        field_ids=tuple(field_id(field) for field in table.snapshot.schema),
        schema_id=0,
        path=path,
        format="parquet",
        size=size,
        layout=b"",
    )
    table._commit(
        AddFragments(
            record=OperationRecord(kind="append", rows_added=6),
            summary={"made": "by hand"},
            fragments=(NewFragment(row_count=6, groups=(group,), statistics=()),),
            features=frozenset({"listed-vectors", "open-layout"}),
        )
    )
    table.append(simple_rows(3, 6))
    golden.expect(pa.concat_tables([rows, simple_rows(3, 6)]).combine_chunks(), range(9), fragments=2)
