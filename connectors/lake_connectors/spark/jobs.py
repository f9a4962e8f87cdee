"""Work on a table spread over a cluster: fill a new column by a function, and join with nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from lake_connectors.spark.reading import Place
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_format.errors import InvalidInputError
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, is_vector
from lake_format.table import Table

__all__ = ["add_column", "nearest_join"]


def add_column(
    spark: SparkSession,
    uri: str,
    name: str,
    type: pa.DataType,  # noqa: A002 - as Table.add_column names it
    function: Callable[[pa.RecordBatch], pa.Array],
    *,
    inputs: Sequence[str] | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: Sequence[str] = (),
) -> Table:
    """Add a column whose values executors compute, in one commit at the end; no other column's file is touched.

    Parameters
    ----------
    function
        Takes a record batch of the table and returns one value a row. It is sent to executors by Spark.
    inputs
        The columns the function reads; None is all.
    allow_external
        Places outside the table's root that it may read files from, as an imported table does.

    Returns
    -------
    Table
        The table at the version that has the values. A job that dies is gone on with by calling this again.
    """
    place = Place(uri, storage_options=dict(storage_options or {}), allow_external=tuple(allow_external))
    table = place.open()
    if name not in table.schema.names:
        table.add_column(name, type)
    plan = table.plan_backfill(name, function, inputs=inputs, job=f"spark-{name}")
    parts = [(number,) for number in range(len(plan.parts))]
    tasks = spark.createDataFrame(parts, "part int") if parts else None
    if tasks is not None:
        spread = tasks.repartitionById(len(parts), tasks["part"])
        work = partial(_fill, place, plan, function)
        spread.mapInArrow(work, "done int").collect()
    return table.commit_backfill(plan, values=function)


def _fill(
    place: Place,
    plan: Any,
    function: Callable[[pa.RecordBatch], pa.Array],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    table = place.open()
    for batch in batches:
        for number in batch.column("part").to_pylist():
            table.run_backfill(plan.parts[number], function)
            yield pa.record_batch([pa.array([number], pa.int32())], names=["done"])


def nearest_join(
    queries: DataFrame,
    uri: str,
    vector: str,
    k: int = 10,
    *,
    columns: Sequence[str] = (),
    recall: float = 0.95,
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: Sequence[str] = (),
) -> DataFrame:
    """Each row of a frame with each of its ``k`` nearest rows of a table; searched in batches by every task.

    Parameters
    ----------
    vector
        The column of ``queries`` that holds the query vectors, arrays of floats without NULL.
    columns
        Columns of the table to bring along, beside ``_row_id`` and ``_distance``.
    allow_external
        Places outside the table's root that it may read files from, as an imported table does.

    Returns
    -------
    DataFrame
        The columns of ``queries``, those asked for, ``_row_id`` and ``_distance``.
    """
    place = Place(
        uri, version, storage_options=dict(storage_options or {}), allow_external=tuple(allow_external)
    )
    table = place.open()
    taken = next((name for name in columns if name in queries.columns), None)
    if taken is not None:
        raise InvalidInputError(f"both sides have a column {taken!r}", fix="rename it on one side")
    unknown = next((name for name in columns if name not in table.schema.names), None)
    if unknown is not None:
        raise InvalidInputError(f"the table has no column {unknown!r}")
    if not any(is_vector(field.type) for field in table.schema):
        raise InvalidInputError("the table has no vector column")
    own = to_arrow_schema(queries.schema, timezone="UTC", prefers_large_types=False)
    found = [TYPES.field(table.schema.field(name)) for name in columns]
    shown = pa.schema([*own, *found, pa.field(ROW_ID, pa.int64()), pa.field(DISTANCE, DISTANCE_FIELD.type)])
    schema = from_arrow_schema(shown, prefer_timestamp_ntz=True)
    target = to_arrow_schema(schema, timezone="UTC", prefers_large_types=False)
    pinned = replace(place, version=table.version)
    return queries.mapInArrow(partial(_search, pinned, vector, k, tuple(columns), recall, target), schema)


def _search(
    place: Place,
    vector: str,
    k: int,
    columns: tuple[str, ...],
    recall: float,
    target: pa.Schema,
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    table = place.open()
    for batch in batches:
        if not batch.num_rows:
            continue
        lists = batch.column(vector)
        if lists.null_count:
            raise InvalidInputError(f"column {vector!r} holds NULL", fix="leave such rows out")
        matrix = np.asarray(lists.to_pylist(), np.float32)
        found = table.search(matrix, k, recall=recall, select=[*columns, ROW_ID, DISTANCE]).to_arrow()
        rows = batch.take(found.column("_query").combine_chunks())
        for name in (*columns, ROW_ID, DISTANCE):
            rows = rows.append_column(name, found.column(name).combine_chunks())
        yield as_spark_batch(rows, target)
