"""A table that refers to files of another one, and what tests about such tables share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

import lake_format as lake
from lake_format.changes import AddFragments
from lake_format.model import NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.roots import numbered_root
from lake_format.store.paths import external_path

SCHEMA = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), 4))])


def rows(first: int, count: int = 6) -> pa.Table:
    values = np.arange(first * 4, (first + count) * 4, dtype="f4")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 4)
    return pa.table([pa.array(range(first, first + count), pa.int64()), vectors], SCHEMA)


def refer(table: lake.Table, source: lake.Table, uri: str) -> lake.Table:
    """Append the fragments of another table by reference, as an import does."""
    number, stored = numbered_root(uri, table.snapshot.version.roots)
    fragments = [
        NewFragment(
            row_count=one.row_count,
            groups=tuple(replace(group, path=external_path(number, group.path)) for group in one.groups),
            statistics=one.statistics,
        )
        for one in source.snapshot.fragments.fragments()
    ]
    change = AddFragments(
        record=OperationRecord(kind="append", rows_added=source.count()),
        summary={},
        fragments=tuple(fragments),
        features=source.snapshot.version.required_features,
        roots={number: stored},
    )
    table._commit(change)
    return table


def referring_pair(tmp_path: Path) -> tuple[Path, Path]:
    """A table with rows 0 to 5 of its own and 100 to 105 in a source beside it."""
    source = lake.create(str(tmp_path / "source"), SCHEMA).append(rows(100))
    table = lake.create(str(tmp_path / "table"), SCHEMA).append(rows(0))
    refer(table, source, str(tmp_path / "source"))
    return tmp_path / "table", tmp_path / "source"


def files(root: Path) -> dict[str, tuple[bytes, int]]:
    """Everything below a folder: bytes and time of change."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
