"""A reader of the format written from `spec/` alone: it imports nothing of this project.

It proves that the specification suffices, and that what our code reads is what is there. Slow on purpose: whole
files in memory, local disk only. Every check asked of a reader is made; what breaks one raises ``RefusedError``.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from independent_bytes import Cursor, RefusedError, require, roaring64, row_id_sequence, vector_file

__all__ = ["RefusedError", "read_table", "roaring64", "unpack", "version_path"]

FEATURES = {"vector-pages", "vortex-files", "row-id-sequences", "deletion-bitmaps", "vector-index"}
FEATURES |= {"superseded-columns", "patch-files", "keys", "key-index", "expired-versions", "external-files"}
FEATURES |= {"partitions", "column-defaults", "open-layout", "computed-columns", "evolved-types"}
FEATURES |= {"listed-vectors", "branches"}
SUPERSEDED = 1 << 31  # added to the id of a column whose values are in another group (MAN-3)
PATH = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
FOREIGN = re.compile(r"(?!\.)[^/\\\x00-\x1f\x7f]+(/(?!\.)[^/\\\x00-\x1f\x7f]+)*")  # STO-9
ID = b"PARQUET:field_id"


def version_path(root: Path, number: int, line: int = 0) -> Path:
    """Where a version of main (line 0) or of a branch lies (TAB-1, BRA-1)."""
    return root / "_lake" / (f"branches/{line:07d}" if line else "") / f"versions/{number:020d}.lake"


def latest(root: Path, line: int = 0) -> int:
    """The newest version: from the hint, or from 1, forward (COM-6)."""
    hint = version_path(root, 0, line).parents[1] / "latest"
    number = unpack(hint.read_bytes())[0]["version"] if hint.exists() else 1
    while version_path(root, number + 1, line).exists():
        number += 1
    return number


def unpack(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The description and the inline manifests of a version object (TAB-2, TAB-5, TAB-6)."""
    cursor = Cursor(data)
    magic, packed, length, crc = cursor.take("8sIII")
    require(magic == b"LAKEVER0" and length <= 256 << 20, "not a version object of this container")
    body = data[20 : 20 + packed]
    require(len(body) == packed and zlib.crc32(body) == crc, "version object altered")
    description = json.loads(pa.Codec("zstd").decompress(body, length, asbytes=True))
    require(description["format_version"] == 0, "a newer format")
    require(not set(description["required_features"]) - FEATURES, "a feature unknown to this reader")
    return description, data[20 + packed :]


def object_path(roots: dict[str, Path], path: str) -> Path:
    """An object of the table, or of an external root that is known (TAB-7, STO-1 to STO-3, STO-9)."""
    number, _, inner = path[1:].partition("/") if path[:1] == "@" else ("", "", path)
    require(number in roots, f"path {path!r} lies in a root that nobody allowed")
    fits = (FOREIGN if number else PATH).fullmatch(inner)
    require(fits and len(inner.encode()) <= 900, f"path {path!r} is not allowed")
    return roots[number] / inner


def fragments(root: dict[str, Path], description: dict[str, Any], tail: bytes) -> list[dict[str, Any]]:
    """Live fragments in scan order (MAN-4, MAN-5, MAN-6)."""
    live, used = [], 0
    for entry in description["manifests"]:
        if entry["path"] is None:
            data = tail[used : used + entry["size"]]
            used += entry["size"]
        else:
            data = object_path(root, entry["path"]).read_bytes()
        require(len(data) == entry["size"] and zlib.crc32(data) == entry["crc"], "manifest altered")
        rows = pa.ipc.open_file(pa.py_buffer(data)).read_all().to_pylist()
        require(len(rows) == entry["fragment_count"], "manifest has another number of fragments")
        if entry["path"] and entry["path"][0] == "@":  # MAN-8
            for file in (one for row in rows for one in row["groups"] + (row.get("patches") or [])):
                own = file["path"][0] != "@"
                file["path"] = entry["path"].split("/")[0] + "/" + file["path"] if own else file["path"]
        live += [row for row in rows if row["fragment_id"] not in entry["removed"]]
    require(used == len(tail), "bytes after the inline manifests")
    return sorted(live, key=lambda fragment: fragment["fragment_id"])


def read_group(root: dict[str, Path], group: dict[str, Any], schema: pa.Schema, rows: int) -> pa.Table:
    """The columns of one file, in the types they were written with (MAN-3, SCH-4)."""
    path = object_path(root, group["path"])
    require(path.stat().st_size == group["size"], f"{path.name} has another size")
    by_id = {int(field.metadata[ID]): field for field in schema}
    written = pa.schema([by_id[wanted % SUPERSEDED] for wanted in group["field_ids"]])
    if group["layout"][:4] == b"LKVC":
        columns = [vector_file(path.read_bytes(), group["layout"], written.field(0))]
    elif group["format"] == "parquet":
        columns = pq.read_table(path).columns
    else:
        import vortex

        columns = vortex.open(str(path)).to_arrow().read_all().columns
    table = pa.table([in_type(found, f.type) for found, f in zip(columns, written, strict=True)], written)
    require(table.num_rows == rows, f"{path.name} has another number of rows")
    return table


def in_type(column: pa.ChunkedArray, data_type: pa.DataType) -> pa.ChunkedArray:
    """The same values in the type of the schema; a file library may know a column by a near relative of it."""
    if pa.types.is_dictionary(data_type) and not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    try:
        return column.cast(data_type)
    except pa.ArrowNotImplementedError:  # dictionaries inside lists
        return pa.chunked_array([pa.array(column.to_pylist(), data_type)])


def become(column: Any, written: pa.Field, now: pa.Field) -> Any:
    """Values as the present schema has them, matched by field id at every depth (EVO-2 to EVO-4)."""
    if written.type == now.type and not pa.types.is_nested(now.type):
        return column
    if not pa.types.is_nested(now.type):
        return column.cast(now.type)
    values = [None if value is None else present(value, written, now) for value in column.to_pylist()]
    return pa.array(values, now.type)


def present(value: Any, written: pa.Field, now: pa.Field) -> Any:
    """One value, not NULL."""
    if pa.types.is_struct(now.type):
        own = {int(child.metadata[ID]): child for child in written.type}
        pairs = [(own.get(int(child.metadata[ID])), child) for child in now.type]
        return {new.name: inside(value[old.name], old, new) if old else None for old, new in pairs}
    if pa.types.is_map(now.type):
        key, item = written.type.item_field, now.type.item_field
        return [(one, inside(other, key, item)) for one, other in value]
    if pa.types.is_nested(now.type):
        return [inside(one, written.type.value_field, now.type.value_field) for one in value]
    return value


def inside(value: Any, written: pa.Field, now: pa.Field) -> Any:
    return None if value is None else present(value, written, now)


def unheld(field: pa.Field, rows: int) -> Any:
    """A column in a fragment that holds none of it: its declared default, or NULL (SCH-5, SCH-9)."""
    stored = (field.metadata or {}).get(b"lake.default")
    if stored is None:
        return pa.nulls(rows, field.type)
    value = pa.ipc.open_stream(base64.b64decode(stored, validate=True)).read_all().column(0)
    require((len(value), value.null_count, value.type) == (1, 0, field.type), "no default of its type")
    return pa.array(value.to_pylist() * rows, field.type)


def read_fragment(
    root: dict[str, Path], fragment: dict[str, Any], schemas: dict[int, pa.Schema], schema: pa.Schema
) -> Any:
    """The live rows of a fragment as columns of ``schema`` and ``_row_id`` (MAN-2, SCH-4, SCH-5, SCH-9, DEL-2)."""
    rows = fragment["row_count"]
    now = {int(field.metadata[ID]): field for field in schema}
    columns = {identity: unheld(field, rows) for identity, field in now.items()}
    for group in fragment["groups"]:
        table = read_group(root, group, schemas[group["schema_id"]], rows)
        for identity, field, column in zip(group["field_ids"], table.schema, table.columns, strict=True):
            if identity in now:
                columns[identity] = become(column, field, now[identity])
    for patch in fragment.get("patches") or ():  # MAN-9; later ones over earlier ones
        table = read_group(root, patch, schemas[patch["schema_id"]], patch["file_rows"])
        at = roaring64(patch["positions"]).astype(np.int64).tolist()
        new = table.slice(patch["first_row"], patch["count"])
        require(0 < len(at) == new.num_rows and max(at) < rows, "a patch does not fit")
        for identity, field, column in zip(patch["field_ids"], new.schema, new.columns, strict=True):
            if identity in now:
                values = columns[identity].to_pylist()
                changed = become(column, field, now[identity]).to_pylist()
                for position, value in zip(at, changed, strict=True):
                    values[position] = value
                columns[identity] = pa.chunked_array([pa.array(values, now[identity].type)])
    first, sequence = fragment["first_row_id"], fragment["row_id_sequence"]
    require((first is None) != (sequence is None), "two kinds of row ids, or none")
    ids = row_id_sequence(sequence, rows) if first is None else first + np.arange(rows)
    dead = () if fragment["deletions"] is None else roaring64(fragment["deletions"]).astype(np.int64)
    live = ~np.isin(np.arange(rows), dead)
    require(int((~live).sum()) == fragment["deleted_count"], "deletions and their count disagree")
    arrays = [columns[int(field.metadata[ID])] for field in schema]
    table = pa.table([*arrays, pa.array(ids.astype(np.int64))], [*schema.names, "_row_id"])
    return table if live.all() else table.filter(pa.array(live))


def check_index(root: dict[str, Path], entry: dict[str, Any], live: set[int]) -> int:
    """Shards as far as a reader without the index needs them: whole, and covering known rows (TAB-9)."""
    covered: set[int] = set()
    for shard in entry["shards"]:
        data = object_path(root, shard["path"]).read_bytes()
        require(len(data) == shard["size"] and data[:4] == data[-4:] == b"PFA1", "not the Puffin file named")
        ids = row_id_sequence(base64.b64decode(shard["row_ids"], validate=True), shard["row_count"])
        require(bool((ids[1:] > ids[:-1]).all()), "covered row ids are not ascending")
        covered |= set(ids.tolist())
    return len(covered & live)


def read_table(
    location: str | Path, version: int | None = None, outside: dict[str, Path] | None = None, line: int = 0
) -> tuple[pa.Table, dict[str, Any]]:
    """All live rows in scan order, ``_row_id`` last, and the description; ``outside``: external roots (STO-28)."""
    number = latest(Path(location), line) if version is None else version
    description, tail = unpack(version_path(Path(location), number, line).read_bytes())
    require(description["version"] == number, "another version under this number")  # TAB-10
    known = {number: (outside or {}).get(uri) for number, uri in description.get("roots", {}).items()}
    root = {"": Path(location)} | {number: folder for number, folder in known.items() if folder}
    schemas = {
        int(key): pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))
        for key, text in description["schemas"].items()
    }
    schema = schemas[description["schema_id"]]
    live = fragments(root, description, tail)
    parts = [read_fragment(root, fragment, schemas, schema) for fragment in live]
    empty = pa.schema([*schema, pa.field("_row_id", pa.int64())]).empty_table()
    table = pa.concat_tables([part.cast(empty.schema) for part in parts]) if parts else empty
    ids = table.column("_row_id").to_pylist()
    require(len(set(ids)) == len(ids) == description["row_count"], "row ids disagree")  # DEL-3, TAB-10
    line = description["next_row_id"] >> 40  # each has row ids of its own (IDN-3)
    own = [one for one in ids if one >> 40 == line]
    require(not own or max(own) < description["next_row_id"], "a row id that was never given out")
    covered = {entry["name"]: check_index(root, entry, set(ids)) for entry in description["indexes"]}
    return table, description | {"fragments": live, "covered": covered}
