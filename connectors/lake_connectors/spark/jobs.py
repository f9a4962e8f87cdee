"""Work on a table spread over a cluster: fill a new column, build an index, join with nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from lake_connectors.spark.reading import Place
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_format.errors import InvalidInputError
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, is_vector
from lake_format.table import Table

__all__ = ["add_column", "create_index", "nearest_join"]


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


def create_index(
    spark: SparkSession,
    uri: str,
    column: str,
    metric: str = "l2",
    *,
    name: str | None = None,
    parallelism: int | None = None,
    shard_rows: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: Sequence[str] = (),
    **options: object,
) -> Table:
    """Build a vector index on executors, in one commit at the end; it is searched as one of ``Table.create_index``.

    The driver trains on a sample. Executors open the files themselves, encode the vectors of some fragments each,
    put what they encoded together into shards, and measure their recall. Nothing is visible before the commit; what a
    job that dies has written is garbage to collect. Rows appended meanwhile are found, and searched one by one until
    ``optimize_index``.

    Parameters
    ----------
    column, metric, name, options
        As for ``Table.create_index``.
    parallelism
        How many tasks encode; by default twice as many as Spark runs side by side. No fragment is parted.
    shard_rows
        About how many rows a shard may have, by default 4,000,000; a task needs about 90 bytes of memory for each
        (vectors of 128 components). A search asks every shard, so few are better.
    allow_external
        Places outside the table's root that it may read files from, as an imported table does.

    Raises
    ------
    InvalidInputError
        Not a vector column, an unknown metric or option, no rows to index, or, out of a task, a row with a NaN or
        infinite value (the row id is named).
    """
    place = Place(uri, storage_options=dict(storage_options or {}), allow_external=tuple(allow_external))
    table = place.open()
    wanted = spark.sparkContext.defaultParallelism * 2 if parallelism is None else parallelism
    plan = table.plan_index(column, metric, name=name, parts=wanted, shard_rows=shard_rows, **options)
    tasks = [(number, task) for number, shard in enumerate(plan) for task in shard]
    encoded = _on_executors(spark, [(shard, [task]) for shard, task in tasks], partial(_encode, place))
    gathered: list[list[bytes]] = [[] for _ in plan]
    for shard, part in encoded:
        gathered[shard].append(part)
    parts = [(shard, found) for shard, found in enumerate(gathered) if len(found) > 1]
    joined = dict(_on_executors(spark, parts, partial(_join, place)))
    return table.commit_index([joined.get(shard, found[0]) for shard, found in enumerate(gathered)])


def _on_executors(
    spark: SparkSession, work: Sequence[tuple[int, list[bytes]]], function: Callable[[list[bytes]], bytes]
) -> list[tuple[int, bytes]]:
    """What a function makes of each piece of work, a task each."""
    if not work:
        return []
    rows = [(place, *one) for place, one in enumerate(work)]
    frame = spark.createDataFrame(rows, "place int, shard int, given array<binary>")
    spread = frame.repartitionById(len(rows), frame["place"])
    found = spread.mapInArrow(partial(_worked, function), "shard int, made binary").collect()
    return [(row.shard, bytes(row.made)) for row in found]


def _worked(
    function: Callable[[list[bytes]], bytes], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for row in batch.to_pylist():
            made = pa.array([function(row["given"])], pa.binary())
            yield pa.record_batch([pa.array([row["shard"]], pa.int32()), made], names=["shard", "made"])


def _encode(place: Place, given: list[bytes]) -> bytes:
    return place.open().index_part(given[0], threads=1)


def _join(place: Place, given: list[bytes]) -> bytes:
    return place.open().join_index_parts(given, threads=1)


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
    own = to_arrow_schema(queries.schema, timezone="UTC", prefers_large_types=False)
    _check_join(own, vector, table.schema, columns)
    found = [TYPES.field(table.schema.field(name)) for name in columns]
    shown = pa.schema([*own, *found, pa.field(ROW_ID, pa.int64()), pa.field(DISTANCE, DISTANCE_FIELD.type)])
    schema = from_arrow_schema(shown, prefer_timestamp_ntz=True)
    target = to_arrow_schema(schema, timezone="UTC", prefers_large_types=False)
    pinned = replace(place, version=table.version)
    return queries.mapInArrow(partial(_search, pinned, vector, k, tuple(columns), recall, target), schema)


def _check_join(own: pa.Schema, vector: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    """Refuse, before any task runs, what the queries or the table cannot give."""
    taken = next((name for name in columns if name in own.names), None)
    if taken is not None:
        raise InvalidInputError(f"both sides have a column {taken!r}", fix="rename it on one side")
    unknown = next((name for name in columns if name not in schema.names), None)
    if unknown is not None:
        raise InvalidInputError(f"the table has no column {unknown!r}")
    if not any(is_vector(field.type) for field in schema):
        raise InvalidInputError("the table has no vector column")
    if vector not in own.names:
        raise InvalidInputError(
            f"the queries have no column {vector!r}", fix=f"columns are {', '.join(own.names)}"
        )
    kind = own.field(vector).type
    numbers = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    if not pa.types.is_list(kind) or not any(fits(kind.value_type) for fits in numbers):
        raise InvalidInputError(
            f"column {vector!r} of the queries has the type {kind}", fix="query vectors are arrays of numbers"
        )


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
        found = table.search(
            lists.to_pylist(), k, recall=recall, select=[*columns, ROW_ID, DISTANCE]
        ).to_arrow()
        rows = batch.take(found.column("_query").combine_chunks())
        for name in (*columns, ROW_ID, DISTANCE):
            rows = rows.append_column(name, found.column(name).combine_chunks())
        yield as_spark_batch(rows, target)
