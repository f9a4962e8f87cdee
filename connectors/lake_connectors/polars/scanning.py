"""A table as a lazy frame: what Polars asks of a scan is handed to the table, at the version of the moment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import polars as pl
import pyarrow as pa
from polars.io.plugins import register_io_source

from lake_connectors.adapter.following import Follower, Observer
from lake_connectors.adapter.nearest import Conditions
from lake_connectors.adapter.opening import opened
from lake_connectors.adapter.requests import ReadRequest
from lake_connectors.adapter.types import fitted
from lake_connectors.polars.predicates import translate
from lake_connectors.polars.types import TYPES
from lake_engines.predicate.tree import Expression
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError, LakeError
from lake_format.schema import ROW_ID, ROW_ID_FIELD
from lake_format.snapshot import Snapshot
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["scan"]

_Follower: TypeAlias = Follower[pa.Schema]


def scan(
    table: Table | str | os.PathLike[str],
    *,
    version: int | None = None,
    row_ids: bool = False,
    max_staleness: float = 0.0,
    storage_options: Mapping[str, str] | None = None,
    allow_external: AllowExternal | None = None,
    observer: Observer | None = None,
) -> pl.LazyFrame:
    """A table as a lazy frame; each collection reads the version that is the newest then.

    Parameters
    ----------
    table
        A table, or where it is. One that was opened at an older version stays there.
    version
        With a URI: that version, for good.
    row_ids
        Show the permanent row id as column ``_row_id``, the last.
    max_staleness
        Seconds for which a version is taken for the newest without asking the store again.
    storage_options, allow_external
        With a URI: as for ``lake.open``.
    observer
        Called with a ``Pushdown`` whenever the table is read.

    Returns
    -------
    polars.LazyFrame
        Projection, filters and ``head`` are answered by the table; what it cannot answer Polars filters itself.

    Raises
    ------
    NotFoundError
        There is no table at the URI, or no such version.
    UnsupportedError
        A column has a type that Polars lacks.
    """
    found = opened(table, version, storage_options, allow_external)

    def show(schema: pa.Schema) -> pa.Schema:
        return TYPES.schema(schema.append(ROW_ID_FIELD) if row_ids else schema)

    follower = Follower(found.uri, found, show, max_staleness=max_staleness, observer=observer)

    def frames(
        columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, batch_rows: int | None
    ) -> Iterator[pl.DataFrame]:
        return _frames(follower, columns, predicate, rows, batch_rows)

    def schema() -> pl.Schema:
        follower.bind()
        return _frame(follower.shown.empty_table()).schema

    return register_io_source(frames, schema=schema, is_pure=False, explain_name=f"lake {found.uri}")


def _frames(
    follower: _Follower,
    columns: list[str] | None,
    predicate: pl.Expr | None,
    rows: int | None,
    batch_rows: int | None,
) -> Iterator[pl.DataFrame]:
    snapshot, shown = follower.bind(), follower.shown
    names = tuple(shown.names if columns is None else columns)
    gone = next((name for name in names if name not in shown.names), None)
    if gone is not None:
        raise InvalidInputError(
            f"version {snapshot.version.version} has no column {gone!r} any more", fix="scan the table again"
        )
    terms, whole = ((), True) if predicate is None else translate(predicate)
    known = tuple(term for term in terms if _binds(term, snapshot))
    whole = whole and len(known) == len(terms)
    request = ReadRequest(columns=names, predicates=known, rules="duckdb")
    follower.tell(snapshot, request)
    reader = follower.engine.scan(
        snapshot,
        ScanRequest(
            columns=names or (ROW_ID,),
            where=Conditions(known, "duckdb").bound(snapshot.schema),
            limit=rows if whole else None,
            batch_rows=batch_rows,
        ),
    )
    yield from _limited((_fitted(batch, shown, names) for batch in reader), predicate, rows)


def _limited(
    batches: Iterator[pa.Table], predicate: pl.Expr | None, rows: int | None
) -> Iterator[pl.DataFrame]:
    left = rows
    for batch in batches:
        frame = _frame(batch)
        if predicate is not None:
            frame = frame.filter(predicate)
        if left is not None:
            frame = frame.head(left)
            left -= frame.height
        yield frame
        if left == 0:
            return


def _fitted(batch: pa.RecordBatch, shown: pa.Schema, names: tuple[str, ...]) -> pa.Table:
    fields = [shown.field(name) for name in names]
    arrays = [fitted(batch.column(field.name), field.type) for field in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _binds(term: Expression, snapshot: Snapshot) -> bool:
    """Whether the table can answer a predicate exactly."""
    try:
        Conditions((term,), "duckdb").bound(snapshot.schema)
    except LakeError:
        return False
    return True
