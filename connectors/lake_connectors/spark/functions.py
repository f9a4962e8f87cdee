"""Making a session know tables: the data source, and ``lake_knn`` for SQL, also LATERAL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.functions import udtf
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.udtf import AnalyzeArgument, AnalyzeResult

import lake_format as lake
from lake_connectors.spark.source import FilteringLakeSource, LakeSource
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_format.errors import InvalidInputError
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD, is_vector
from lake_format.table import Table

__all__ = ["register"]

_PUSHDOWN = "spark.sql.python.filterPushdown.enabled"


def register(spark: SparkSession) -> SparkSession:
    """Let a session read and write ``format("lake")`` and call ``lake_knn`` in SQL; returns the session.

    ``lake_knn(path => '…', q => array(…), k => 10 [, columns => 'id, title', filter => 'price < 10', version => 3,
    storage => map('endpoint', '…'), allow => 's3://bucket/files'])`` gives the nearest rows, nearest first, with
    ``_row_id`` and ``_distance``; ``columns`` default to all but vectors; ``allow`` are places outside the table's
    root that it may read files from, separated by commas.

    Filters reach the table where ``spark.sql.python.filterPushdown.enabled`` is ``true`` when this is called, which
    Spark does not do by itself; elsewhere Spark reads all rows and filters them. After setting it call this again.

    Spark looks for data sources written in Python in the session that is active in the calling thread. A plain
    ``threading.Thread`` has none and finds no ``lake``: call this in it, too.
    """
    pushed = str(spark.conf.get(_PUSHDOWN, "false")).lower() == "true"
    spark.dataSource.register(FilteringLakeSource if pushed else LakeSource)
    function: Any = udtf(_Nearest)
    spark.udtf.register("lake_knn", function)
    java: Any = getattr(spark, "_jvm", None)
    if java is not None:  # with Spark Connect threads belong to the server
        java.SparkSession.setActiveSession(spark._jsparkSession)
    return spark


@lru_cache(maxsize=8)
def _kept(
    path: str, version: int | None, storage: tuple[tuple[str, str], ...] | None, allow: str | None
) -> Table:
    allowed = [one.strip() for one in (allow or "").split(",") if one.strip()]
    return lake.open(
        path, version, storage_options=dict(storage or ()) or None, allow_external=allowed or None
    )


def _opened(
    path: str, version: int | None, storage: tuple[tuple[str, str], ...] | None, allow: str | None
) -> Table:
    """The table at its newest version; opened once a process, and asked whether it moved."""
    return _kept(path, version, storage, allow).refresh()


def _options(given: dict[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    return None if given is None else tuple(sorted(given.items()))


def _names(table: Table, columns: str | None) -> list[str]:
    if columns is None:
        return [field.name for field in table.schema if not is_vector(field.type)]
    names = [name.strip() for name in columns.split(",") if name.strip()]
    unknown = next((name for name in names if name not in table.schema.names), None)
    if unknown is not None:
        raise InvalidInputError(
            f"lake_knn(): the table has no column {unknown!r}",
            fix=f"columns are {', '.join(table.schema.names)}",
        )
    return names


class _Nearest:
    """One search a row of arguments."""

    @staticmethod
    def analyze(
        path: AnalyzeArgument,
        q: AnalyzeArgument,
        k: AnalyzeArgument,
        columns: AnalyzeArgument | None = None,
        filter: AnalyzeArgument | None = None,  # noqa: A002 - the name in SQL
        version: AnalyzeArgument | None = None,
        storage: AnalyzeArgument | None = None,
        allow: AnalyzeArgument | None = None,
    ) -> AnalyzeResult:
        """The columns of the answer, which follow from the table."""
        if path.value is None:
            raise InvalidInputError("lake_knn(): path must be a constant", fix="path => 's3://bucket/table'")
        table = _opened(
            str(path.value),
            None if version is None else version.value,
            None if storage is None else _options(storage.value),
            None if allow is None else allow.value,
        )
        names = _names(table, None if columns is None else columns.value)
        import pyarrow as pa  # noqa: PLC0415 - analysis runs in a process of its own

        fields = [table.schema.field(name) for name in names]
        shown = TYPES.schema(pa.schema([*fields, ROW_ID_FIELD, DISTANCE_FIELD]))
        return AnalyzeResult(schema=from_arrow_schema(shown, prefer_timestamp_ntz=True))

    def eval(
        self,
        path: str,
        q: list[float],
        k: int,
        columns: str | None = None,
        filter: str | None = None,  # noqa: A002
        version: int | None = None,
        storage: dict[str, str] | None = None,
        allow: str | None = None,
    ) -> Iterator[tuple[Any, ...]]:
        """The nearest rows."""
        if q is None:
            return
        table = _opened(path, version, _options(storage), allow)
        names = [*_names(table, columns), ROW_ID, DISTANCE]
        found = table.search(q, k, where=filter, select=names).to_arrow()
        shown = TYPES.schema(found.schema)
        for batch in found.to_batches():
            yield from zip(*(column.to_pylist() for column in as_spark_batch(batch, shown)), strict=True)
