"""Spark through ``lake_connectors.spark``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from spark_session import session

import lake_format as lake
from conformance.engine import Reached, Support
from conformance.sql import select
from lake_connectors import spark as lake_spark
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_format.errors import LakeError

_numbers = itertools.count()


class SparkSession:
    def __init__(self, table: Reached, copy: pa.Table | None) -> None:
        self.spark = session()
        self.table = table
        number = next(_numbers)
        self.items, self._copied = f"items_{number}", f"copied_{number}"
        if copy is not None:
            shown = TYPES.schema(copy.schema)
            batches = [as_spark_batch(batch, shown) for batch in copy.to_batches()]
            frame = self.spark.createDataFrame(pa.Table.from_batches(batches, shown))
            frame.createOrReplaceTempView(self._copied)

    def _frame(self, table: Reached, **options: object) -> Any:
        reading = self.spark.read.format("lake")
        for name, value in table.storage_options.items():
            reading = reading.option(f"storage.{name}", value)
        if table.allow_external:
            reading = reading.option("allowExternal", ",".join(table.allow_external))
        if table.version is not None:
            reading = reading.option("version", table.version)
        for name, value in options.items():
            reading = reading.option(name, value)
        return reading.load(table.uri)

    def _rows(self, sql: str) -> pa.Table:
        return self.spark.sql(sql.replace('"', "`")).toArrow()

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        if columns is not None and where is None and limit is None:
            options = dict(self.table.storage_options)
            fast = lake_spark.read(
                self.spark,
                self.table.uri,
                columns=columns,
                version=self.table.version,
                storage_options=options,
                allow_external=self.table.allow_external,
            )
            return fast.toArrow()
        self._frame(self.table).createOrReplaceTempView(self.items)
        return self._rows(select(self.items, columns, where, limit))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        return self._rows(select(self._copied, columns, where))

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        literal = ", ".join(f"float({one})" for one in vector)
        wanted = "" if where is None else f""", filter => "{where}\""""
        found = self.spark.sql(
            f"""SELECT id, _distance FROM lake_knn(path => '{self.table.uri}', q => array({literal}), k => {k},
            columns => 'id', {self._reach()}{wanted})"""
        )
        return [(row.id, row._distance) for row in found.collect()]  # a sort would search twice

    def _reach(self) -> str:
        options = ", ".join(f"'{name}', '{value}'" for name, value in self.table.storage_options.items())
        return (
            f"storage => map({options})" if options else f"allow => '{','.join(self.table.allow_external)}'"
        )

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        raise NotImplementedError

    def joined(self, vectors: Sequence[Sequence[float]], k: int, **more: Any) -> list[list[int]]:
        rows = [(number, [float(one) for one in vector]) for number, vector in enumerate(vectors)]
        queries = self.spark.createDataFrame(rows, "q int, v array<float>")
        options = dict(self.table.storage_options)
        found = lake_spark.nearest_join(
            queries,
            self.table.uri,
            "v",
            k,
            columns=["id"],
            storage_options=options,
            allow_external=self.table.allow_external,
            **more,
        ).collect()
        nearest = sorted((row.q, row._distance, row.id) for row in found)
        return [[one for query, _, one in nearest if query == number] for number in range(len(vectors))]

    def append(self, rows: pa.Table) -> None:
        frame = self.spark.createDataFrame(rows).coalesce(1)
        frame.write.format("lake").mode("append").save(self.table.uri)

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        schema = pa.schema([self.table.open().schema.field(name) for name in columns])
        rows = self._frame(self.table).select(*columns).toLocalIterator()
        while some := list(itertools.islice(rows, 500)):
            yield pa.Table.from_pylist([row.asDict() for row in some], schema)

    def attach(self, table: Reached) -> None:
        self._frame(table)  # looks for its schema
        self.table = table

    def attach_with(self, storage_options: Mapping[str, str] | None = None, **options: object) -> None:
        stored = {f"storage.{name}": value for name, value in (storage_options or {}).items()}
        self._frame(self.table, **options, **stored)

    def search(self, vector: Any, k: object = 3, **options: Any) -> object:
        if "recall" in options:  # the function has none, a join with neighbours does
            return self.joined([vector], 3, recall=options["recall"])
        if "metric" in options:  # nor a metric, which belongs to an index here
            stored = dict(self.table.storage_options)
            return lake_spark.create_index(
                self.spark, self.table.uri, "vec", options["metric"], storage_options=stored
            )
        folder, name = self.table.uri.rsplit("/", 1)
        path = f"{folder}/{options.get('table', name)}"
        return self._rows(
            f"SELECT id FROM lake_knn(path => '{path}', q => {_literal(vector)}, k => {k}, {self._reach()})"
        )

    def search_by_a_column(self, name: str) -> object:
        lateral = "" if name == "vec" else "LATERAL "  # which rightly takes one vector a row
        found = f"lake_knn(path => '{self.table.uri}', q => c.{name}, k => 3, {self._reach()})"
        return self._rows(f"SELECT n.id FROM {self._copied} c, {lateral}{found} n")

    def ask_with_an_unknown_option(self, name: str) -> object:
        found = f"lake_knn(path => '{self.table.uri}', q => array(1f), k => 3, {self._reach()}, {name} => 1)"
        return self._rows(f"SELECT id FROM {found}")

    def maps_vectors(self) -> bool:
        return False

    def close(self) -> None: ...


def _literal(vector: Any) -> str:
    if isinstance(vector, str):
        return repr(vector)
    values = ("NULL" if one is None else f"float('{one}')" for one in vector)
    return f"array({', '.join(values)})"


class Spark:
    name = "Spark"
    slow = True
    errors = (PySparkException, Py4JJavaError, LakeError)
    options = frozenset({"option", "metric", "recall", "table"})
    words: Mapping[str, str] = MappingProxyType(
        {
            "unknown option": r"'lake_knn'.*unexpected keyword argument 'probes'",
            "column for a vector": r"UNRESOLVED_COLUMN.*`c`\.`vec`",
            "column of text for a vector": "query is not a vector of numbers: could not convert string to float",
        }
    )
    differs: Mapping[str, str] = MappingProxyType({})
    support: Mapping[str, Support] = MappingProxyType(
        {
            "types": "pushed",
            "projection": "pushed",
            "filter": "pushed",
            "odd filter": "answered",
            "limit": "answered",
            "knn": "pushed",
            "knn filter": "pushed",
            "knn odd filter": "absent",
            "order by": "absent",
            "knn join": "pushed",
            "new rows": "pushed",
            "new columns": "pushed",
            "version": "pushed",
            "append": "pushed",
            "evolution": "pushed",
            "imported": "pushed",
            "mapped vectors": "absent",
            "mistakes": "answered",
        }
    )

    def open(self, table: Reached, copy: pa.Table | None = None) -> SparkSession:
        table.open()
        return SparkSession(table, copy)

    def owns(self, error: BaseException) -> bool:
        return isinstance(error, self.errors)

    def takes(self, kind: pa.DataType) -> bool:
        try:
            TYPES.declared(kind)
        except lake.UnsupportedError:
            return False
        return True


ENGINE = Spark()
