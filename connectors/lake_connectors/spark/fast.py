"""The quickest way to read a table in Spark: tasks read files themselves, and only the columns asked for.

Spark's data source interface for Python knows no column pruning; a frame made here has the columns and filter it was
asked for, read as Arrow by as many tasks as there are parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StructType

from lake_connectors.spark.reading import Place, batches_of, grouped, scanned, shown_schema
from lake_engines.predicate import Expression, parse_filter

__all__ = ["map_batches", "read"]


def read(
    spark: SparkSession,
    uri: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    version: int | None = None,
    row_ids: bool = False,
    parallelism: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: Sequence[str] = (),
) -> DataFrame:
    """A table as a frame, pinned to the version of now.

    Parameters
    ----------
    columns
        Names wanted; None is all.
    where
        SQL text as for ``Table.scan``; answered by the table, by its statistics first.
    version
        An older version.
    row_ids
        Show ``_row_id`` as the last column.
    parallelism
        How many tasks read; by default as many as Spark runs side by side, at least.
    allow_external
        Places outside the table's root that it may read files from, as an imported table does.

    Raises
    ------
    NotFoundError, InvalidInputError
        No such table, version or column, or a filter that does not fit.
    """
    place = _place(uri, columns, version, row_ids, storage_options, allow_external)
    scan = _scan(spark, place, where, parallelism)
    work = partial(_read_parts, scan.place, scan.terms, scan.target)
    return scan.tasks.mapInArrow(work, scan.schema)


def map_batches(
    spark: SparkSession,
    uri: str,
    function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType | str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    version: int | None = None,
    row_ids: bool = False,
    parallelism: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: Sequence[str] = (),
) -> DataFrame:
    """What a function makes of a table's batches, in the tasks that read them: rows never pass through the JVM.

    Parameters
    ----------
    function
        As for ``DataFrame.mapInArrow``; its batches have the table's own types, vectors as fixed-size lists that lie
        in the mapped file where the table is on a local disk.
    schema
        Of what it returns.
    columns, where, version, row_ids, parallelism, storage_options, allow_external
        As for :func:`read`.
    """
    place = _place(uri, columns, version, row_ids, storage_options, allow_external)
    scan = _scan(spark, place, where, parallelism)
    return scan.tasks.mapInArrow(partial(_map_parts, scan.place, scan.terms, scan.names, function), schema)


@dataclass(frozen=True)
class _Scan:
    """A scan as tasks of a frame, and what each needs to know."""

    place: Place
    terms: tuple[Expression, ...]
    schema: StructType
    target: pa.Schema
    tasks: DataFrame

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.target.names)


def _place(
    uri: str,
    columns: Sequence[str] | None,
    version: int | None,
    row_ids: bool,
    storage_options: Mapping[str, str] | None,
    allow_external: Sequence[str],
) -> Place:
    chosen = None if columns is None else tuple(columns)
    return Place(uri, version, chosen, row_ids, None, dict(storage_options or {}), tuple(allow_external))


def _scan(spark: SparkSession, place: Place, where: str | None, parallelism: int | None) -> _Scan:
    table = place.open()
    place = Place(**{**vars(place), "version": table.version})
    terms: tuple[Expression, ...] = () if where is None else (parse_filter(where),)
    schema = from_arrow_schema(shown_schema(table, place), prefer_timestamp_ntz=True)
    target = to_arrow_schema(schema, timezone="UTC", prefers_large_types=False)
    groups = grouped(table, terms, parallelism or spark.sparkContext.defaultParallelism * 2)
    numbers = [(number, sorted(group)) for number, group in enumerate(groups)]
    tasks = spark.createDataFrame(numbers, "part int, fragments array<bigint>")
    spread = tasks.repartitionById(len(groups), tasks["part"]) if groups else tasks
    return _Scan(place, terms, schema, target, spread)


def _read_parts(
    place: Place, terms: tuple[Expression, ...], target: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for fragments in batch.column("fragments").to_pylist():
            yield from batches_of(place, frozenset(fragments), terms, target)


def _map_parts(
    place: Place,
    terms: tuple[Expression, ...],
    names: tuple[str, ...],
    function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    batches: Iterator[pa.RecordBatch],
) -> Iterator[pa.RecordBatch]:
    def rows() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for fragments in batch.column("fragments").to_pylist():
                yield from scanned(place, frozenset(fragments), terms, names)

    yield from function(rows())
