"""A table of very many fragments without writing as many files: one real fragment's entry, repeated by the codec.

Every fragment has its own id, row ids and bounds of the first column; all of them share the files of the first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

import lake_format as lake
from lake_format.log import VersionLog
from lake_format.manifest import inline_manifest
from lake_format.manifest_set import MAX_FRAGMENTS
from lake_format.model import ManifestReference
from lake_format.paths import manifest_path
from lake_format.schema import field_id
from lake_format.statistics import encode_bound
from lake_format.transaction import Surroundings

__all__ = ["multiply"]


def multiply(table: lake.Table, count: int) -> lake.Table:
    """Commit a version in which the table's only fragment is there ``count`` times; the first column ascends.

    Bounds of the first column, a 64-bit integer, say that fragment *i* holds the values ``i * rows`` and up; the
    files say what they always said, so a filter tells planning apart from reading.
    """
    snapshot = table.snapshot
    (only,) = snapshot.fragments.fragments()
    entry = snapshot.fragments.table
    around = Surroundings()
    references = []
    for first in range(0, count, MAX_FRAGMENTS):
        numbers = np.arange(first, min(first + MAX_FRAGMENTS, count))
        rows = _repeated(entry, numbers, only.row_count, field_id(snapshot.schema.field(0)), snapshot.schema)
        references.append(_stored(table, inline_manifest(rows), around))
    parent = snapshot.version
    version = replace(
        parent,
        version=parent.version + 1,
        parent=parent.version,
        commit_id=str(around.new_id()),
        committed_at=parent.committed_at + 1,
        manifests=tuple(references),
        row_count=count * only.row_count,
        next_row_id=count * only.row_count,
        next_fragment_id=count,
        history=(),
    )
    log = VersionLog(snapshot.store)
    assert log.claim(version)
    log.publish_hint(version)
    return table.refresh()


def _stored(table: lake.Table, reference: ManifestReference, around: Surroundings) -> ManifestReference:
    assert reference.body is not None
    path = manifest_path(around.new_id())
    table.snapshot.store.create(path, reference.body)
    return replace(reference, path=path, body=None)


def _repeated(entry: pa.Table, numbers: np.ndarray, rows: int, bounded: int, schema: pa.Schema) -> pa.Table:
    many = entry.take(pa.array(np.zeros(len(numbers), np.int64)))
    many = many.set_column(0, many.schema.field(0), pa.array(numbers, pa.uint64()))
    first = many.schema.get_field_index("first_row_id")
    many = many.set_column(first, many.schema.field(first), pa.array(numbers * rows, pa.uint64()))
    at = many.schema.get_field_index("statistics")
    lists = many.column(at).combine_chunks()
    values = lists.flatten()
    owned = np.flatnonzero(values.field("field_id").to_numpy(zero_copy_only=False) == bounded)
    columns = {name: values.field(name) for name in values.type.names}
    for name, offset in (("lower", 0), ("upper", rows - 1)):
        kept = columns[name].to_pylist()
        for place, number in zip(owned.tolist(), numbers.tolist(), strict=True):
            kept[place] = encode_bound(pa.scalar(number * rows + offset, pa.int64()))
        columns[name] = pa.array(kept, pa.binary())
    struct = pa.StructArray.from_arrays(list(columns.values()), fields=list(values.type))
    return many.set_column(
        at, many.schema.field(at), pa.ListArray.from_arrays(lists.offsets, struct, type=lists.type)
    )
