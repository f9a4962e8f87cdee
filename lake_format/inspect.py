"""A table's metadata as Arrow tables, for people, SQL and tests."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from lake_format.column_defaults import default_text
from lake_format.computed_columns import expression_text
from lake_format.errors import InvalidInputError
from lake_format.log import VersionLog
from lake_format.model import Fragment, HistoryEntry
from lake_format.partitioning import Partition
from lake_format.pins import list_pins
from lake_format.schema import field_by_id, field_id
from lake_format.snapshot import Snapshot
from lake_format.store.paths import split_external
from lake_format.timeline import history_of

__all__ = ["Inspect"]

_ROWS_AT_ONCE = 4096
_TIME = pa.timestamp("us", "UTC")
_LATEST = 253_402_300_800_000_000
"""The last moment that Python can show, in microseconds: what people are told may be anything."""
_VERSIONS = pa.schema(
    [
        ("version", pa.int64()),
        ("committed_at", _TIME),
        ("operation", pa.string()),
        ("rows", pa.int64()),
        ("commit_id", pa.string()),
        ("writer_id", pa.string()),
        ("summary", pa.string()),
    ]
)
_FRAGMENTS = pa.schema(
    [
        ("fragment_id", pa.int64()),
        ("rows", pa.int64()),
        ("deleted_rows", pa.int64()),
        ("patches", pa.int64()),
        ("first_row_id", pa.int64()),
        ("files", pa.int64()),
        ("bytes", pa.int64()),
        ("partition", pa.string()),
        ("clustering", pa.string()),
    ]
)
_PARTITIONS = pa.schema(
    [
        ("spec_id", pa.int64()),
        ("partition", pa.string()),
        ("fragments", pa.int64()),
        ("rows", pa.int64()),
        ("deleted_rows", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
_COLUMNS = pa.schema(
    [
        ("field_id", pa.int64()),
        ("column", pa.string()),
        ("type", pa.string()),
        ("nullable", pa.bool_()),
        ("default", pa.string()),
        ("computed", pa.string()),
    ]
)
_FILES = pa.schema(
    [
        ("fragment_id", pa.int64()),
        ("path", pa.string()),
        ("format", pa.string()),
        ("bytes", pa.int64()),
        ("rows", pa.int64()),
        ("columns", pa.list_(pa.string())),
    ]
)
_MANIFESTS = pa.schema(
    [("path", pa.string()), ("bytes", pa.int64()), ("fragments", pa.int64()), ("rows", pa.int64())]
)
_INDEXES = pa.schema(
    [
        ("name", pa.string()),
        ("column", pa.string()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("rows", pa.int64()),
        ("shards", pa.int64()),
        ("bytes", pa.int64()),
        ("parameters", pa.string()),
    ]
)
_ROOTS = pa.schema([("root", pa.int64()), ("uri", pa.string()), ("files", pa.int64()), ("bytes", pa.int64())])

_SOURCES = pa.schema(
    [
        ("uri", pa.string()),
        ("table_id", pa.string()),
        ("line", pa.int64()),
        ("version", pa.int64()),
        ("pinned", pa.bool_()),
    ]
)
_PINS = pa.schema(
    [
        ("line", pa.int64()),
        ("version", pa.int64()),
        ("table_id", pa.string()),
        ("clone", pa.string()),
        ("created_at", _TIME),
    ]
)


class Inspect:
    """Metadata of one version; each method returns a ``pyarrow.Table``."""

    def __init__(self, snapshot: Snapshot, log: VersionLog) -> None:
        self._snapshot = snapshot
        self._log = log

    def versions(self, *, limit: int | None = None, newest_first: bool = False) -> pa.Table:
        """One row a version that has not expired, up to the one this table reads.

        Parameters
        ----------
        limit
            Only so many of the newest.
        newest_first
            The newest version comes first, else the oldest.
        """
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise InvalidInputError(f"limit must be a positive whole number, not {limit!r}")
        rows = map(_version_row, history_of(self._log, self._snapshot.version, limit))
        batches = []
        while part := list(islice(rows, _ROWS_AT_ONCE)):
            batches.append(pa.RecordBatch.from_pylist(part, schema=_VERSIONS))
        found = pa.Table.from_batches(batches, _VERSIONS)
        return found if newest_first else found.take(pa.array(np.arange(len(found))[::-1]))

    def columns(self) -> pa.Table:
        """One row a column; its default is what rows have that were there before it, NULL where none is declared.

        ``computed`` is the SQL that gives a computed column its values, over the names columns have now.
        """
        rows = [
            {
                "field_id": field_id(field),
                "column": field.name,
                "type": str(field.type),
                "nullable": field.nullable,
                "default": default_text(field),
                "computed": expression_text(self._snapshot.schema, field),
            }
            for field in self._snapshot.schema
        ]
        return pa.Table.from_pylist(rows, schema=_COLUMNS)

    def fragments(self) -> pa.Table:
        """One row a fragment."""
        rows = [
            {
                "fragment_id": fragment.fragment_id,
                "rows": fragment.row_count,
                "deleted_rows": fragment.deleted_count,
                "patches": len(fragment.patches),
                "first_row_id": fragment.first_row_id,
                "files": len(fragment.groups) + len(fragment.patches),
                "bytes": sum(group.size for group in fragment.groups),
                "partition": self._shown(fragment.partition),
                "clustering": fragment.clustering,
            }
            for fragment in self._snapshot.fragments.fragments()
        ]
        return pa.Table.from_pylist(rows, schema=_FRAGMENTS)

    def partitions(self) -> pa.Table:
        """One row a partition; ``partition`` and ``spec_id`` are NULL for rows written without one."""
        found: dict[Partition | None, list[Fragment]] = {}
        for fragment in self._snapshot.fragments.fragments():
            found.setdefault(fragment.partition, []).append(fragment)
        rows = [
            {
                "spec_id": None if partition is None else partition.spec_id,
                "partition": self._shown(partition),
                "fragments": len(fragments),
                "rows": sum(one.row_count for one in fragments),
                "deleted_rows": sum(one.deleted_count for one in fragments),
                "bytes": sum(group.size for one in fragments for group in one.groups),
            }
            for partition, fragments in found.items()
        ]
        return pa.Table.from_pylist(rows, schema=_PARTITIONS)

    def _shown(self, partition: Partition | None) -> str | None:
        """A partition for people: ``day(ts)=2024-05-01, bucket(16, id)=3``."""
        if partition is None:
            return None
        version = self._snapshot.version
        return version.partition_specs[partition.spec_id].shown_values(partition, version.schemas)

    def files(self) -> pa.Table:
        """One row a data file of a fragment; files of patches are there once for each fragment that shares them."""
        rows = [row for fragment in self._snapshot.fragments.fragments() for row in self._file_rows(fragment)]
        return pa.Table.from_pylist(rows, schema=_FILES)

    def manifests(self) -> pa.Table:
        """One row a manifest; ``path`` is NULL for those inside the version object."""
        rows = [
            {
                "path": reference.path,
                "bytes": reference.size,
                "fragments": reference.fragment_count,
                "rows": reference.row_count,
            }
            for reference in self._snapshot.version.manifests
        ]
        return pa.Table.from_pylist(rows, schema=_MANIFESTS)

    def indexes(self) -> pa.Table:
        """One row an index."""
        rows = []
        for entry in self._snapshot.version.indexes:
            field = field_by_id(self._snapshot.schema, entry.field_id)
            rows.append(
                {
                    "name": entry.name,
                    "column": field.name if field else None,
                    "kind": entry.kind,
                    "metric": entry.metric,
                    "rows": sum(shard.row_count for shard in entry.shards),
                    "shards": len(entry.shards),
                    "bytes": sum(shard.size for shard in entry.shards),
                    "parameters": _facts(entry.parameters),
                }
            )
        return pa.Table.from_pylist(rows, schema=_INDEXES)

    def roots(self) -> pa.Table:
        """One row a place outside the table's root that the table reads files from, and what lies there."""
        held = {number: [0, 0] for number in self._snapshot.version.roots}
        fragments = self._snapshot.fragments.fragments() if held else []
        files = {file.path: file.size for fragment in fragments for file in fragment.files()}
        for path, size in files.items():
            number, _ = split_external(path)
            if number in held:
                held[number][0] += 1
                held[number][1] += size
        rows = [
            {"root": number, "uri": uri, "files": held[number][0], "bytes": held[number][1]}
            for number, uri in sorted(self._snapshot.version.roots.items())
        ]
        return pa.Table.from_pylist(rows, schema=_ROOTS)

    def sources(self) -> pa.Table:
        """One row a table that this one was cloned from, and whether a pin keeps there what this one shares."""
        version = self._snapshot.version
        rows = [
            {
                "uri": version.roots[one.root],
                "table_id": one.table_id,
                "line": one.line,
                "version": one.version,
                "pinned": one.pinned,
            }
            for one in version.cloned_from
        ]
        return pa.Table.from_pylist(rows, schema=_SOURCES)

    def pins(self) -> pa.Table:
        """One row a clone for which a version is kept here, as it is now; ``clone`` is where it was made."""
        rows = []
        for pin in list_pins(self._snapshot.store):
            told = pin.told(self._snapshot.store)
            clone, created = told.get("clone"), told.get("created_at")
            rows.append(
                {
                    "line": pin.line,
                    "version": pin.version,
                    "table_id": pin.table_id,
                    "clone": clone if isinstance(clone, str) else None,
                    "created_at": created if isinstance(created, int) and 0 <= created < _LATEST else None,
                }
            )
        return pa.Table.from_pylist(rows, schema=_PINS)

    def _file_rows(self, fragment: Fragment) -> list[dict[str, Any]]:
        schemas = self._snapshot.version.schemas
        rows = []
        counts = [fragment.row_count] * len(fragment.groups) + [patch.count for patch in fragment.patches]
        for group, count in zip(fragment.files(), counts, strict=True):
            fields = [field_by_id(schemas[group.schema_id], field_id) for field_id in group.live_field_ids]
            rows.append(
                {
                    "fragment_id": fragment.fragment_id,
                    "path": group.path,
                    "format": group.format,
                    "bytes": group.size,
                    "rows": count,
                    "columns": [field.name if field else "?" for field in fields],
                }
            )
        return rows


def _version_row(entry: HistoryEntry) -> dict[str, Any]:
    details = entry.details
    assert details is not None
    return {
        "version": entry.version,
        "committed_at": entry.committed_at,
        "operation": ", ".join(details.kinds),
        "rows": details.row_count,
        "commit_id": details.commit_id,
        "writer_id": details.writer_id,
        "summary": _facts(details.summary),
    }


def _facts(values: object) -> str:
    pairs = dict(values).items() if isinstance(values, dict) else ()
    return ", ".join(f"{name}={value}" for name, value in pairs)
