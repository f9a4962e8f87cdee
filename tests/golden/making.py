"""What golden tables are made with: a clock and ids of their own, simple rows, commits made by hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pyarrow as pa

import lake_format as lake
from lake_format.checkpoint import recent_of_next
from lake_format.log import VersionLog
from lake_format.manifest import inline_manifest
from lake_format.model import Fragment, ManifestReference, Version
from lake_format.paths import manifest_path
from lake_format.store.local import LocalStore
from lake_format.transaction import Surroundings

ROOT = Path(__file__).parent / "v0"
OUTSIDE = "s3://golden"
"""Where external roots of golden tables are said to be; readers are given this folder instead."""


@dataclass
class Golden:
    """One golden table in the making."""

    name: str
    surroundings: Surroundings
    rows: pa.Table | None = None
    facts: dict[str, Any] | None = None

    @property
    def uri(self) -> str:
        return str(ROOT / self.name)

    def create(self, schema: pa.Schema, **properties: str) -> lake.Table:
        """A table whose scalars are in Vortex files, however few rows there are, unless something else is said."""
        if properties.get("write.layout") != "open":
            properties = {"write.scalar-format": "vortex", **properties}
        return lake.create(self.uri, schema, properties=properties, surroundings=self.surroundings)

    def open(self) -> lake.Table:
        allowed = {OUTSIDE: LocalStore(ROOT)}
        return lake.open(self.uri, allow_external=allowed, surroundings=self.surroundings)

    def expect(self, rows: pa.Table, row_ids: Sequence[int] | range, **facts: Any) -> None:
        """Say what a reader must find: rows in scan order, their row ids, anything else."""
        self.rows = rows.append_column("_row_id", pa.array(list(row_ids), pa.int64()))
        self.facts = facts

    def land(self, table: lake.Table, **changes: Any) -> None:
        """Commit a version made by hand: what later issues will write, the format describes already."""
        parent = table.snapshot.version
        version = replace(
            parent,
            version=parent.version + 1,
            parent=parent.version,
            commit_id=str(self.surroundings.new_id()),
            committed_at=parent.committed_at + 1,
            operations=({"kind": "append"},),
            summary={"made": "by hand"},
            history=recent_of_next(parent),
            **changes,
        )
        _land(table, version)


def _land(table: lake.Table, version: Version) -> None:
    log = VersionLog(table.snapshot.store)
    assert log.claim(version)
    log.publish_hint(version)


def surroundings_of(name: str) -> Surroundings:
    numbers, seconds = itertools.count(), itertools.count(1_750_000_000)
    return Surroundings(
        now=lambda: float(next(seconds)),
        new_id=lambda: uuid5(NAMESPACE_URL, f"golden/{name}/{next(numbers)}"),
        chance=lambda: 0.5,
        sleep=lambda _seconds: None,
        writer_id="golden",
    )


def vectors(rows: int, dimension: int, seed: int, dtype: str = "f4") -> pa.Array:
    """Vectors of small whole quarters: exact in float16 too, and distances have no rounding to argue about."""
    numbers = np.random.default_rng(seed).integers(-8, 9, rows * dimension) / 4
    return pa.FixedSizeListArray.from_arrays(pa.array(numbers.astype(dtype)), dimension)


def with_nulls(array: pa.Array, rows: Sequence[int]) -> pa.Array:
    taken = [None if row in rows else row for row in range(len(array))]
    return array.take(pa.array(taken, pa.int64()))


def simple_rows(rows: int, first: int = 0) -> pa.Table:
    ids = range(first, first + rows)
    names = [None if row % 4 == 3 else f"name {row}" for row in ids]
    schema = pa.schema(
        [pa.field("id", pa.int64(), False), ("name", pa.string()), ("v", pa.list_(pa.float32(), 4))]
    )
    return pa.table([pa.array(ids, pa.int64()), pa.array(names), vectors(rows, 4, first)], schema)


def as_object(table: lake.Table, fragments: list[Fragment], around: Surroundings) -> ManifestReference:
    """The manifest of some fragments as an object of its own."""
    reference = inline_manifest(fragments)
    path = manifest_path(around.new_id())
    assert reference.body is not None
    table.snapshot.store.create(path, reference.body)
    return replace(reference, path=path, body=None)
