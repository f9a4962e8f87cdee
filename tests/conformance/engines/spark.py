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

    def _frame(self, columns: Sequence[str] | None) -> Any:
        reading = self.spark.read.format("lake")
        for name, value in self.table.storage_options.items():
            reading = reading.option(f"storage.{name}", value)
        if self.table.allow_external:
            reading = reading.option("allowExternal", ",".join(self.table.allow_external))
        if self.table.version is not None:
            reading = reading.option("version", self.table.version)
        return reading.load(self.table.uri)

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
        self._frame(columns).createOrReplaceTempView(self.items)
        return self._rows(select(self.items, columns, where, limit))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        return self._rows(select(self._copied, columns, where))

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        literal = ", ".join(f"float({one})" for one in vector)
        options = ", ".join(f"'{name}', '{value}'" for name, value in self.table.storage_options.items())
        reach = (
            f"storage => map({options})" if options else f"allow => '{','.join(self.table.allow_external)}'"
        )
        wanted = "" if where is None else f""", filter => "{where}\""""
        found = self.spark.sql(
            f"""SELECT id, _distance FROM lake_knn(path => '{self.table.uri}', q => array({literal}), k => {k},
            columns => 'id', {reach}{wanted})"""
        )
        return [(row.id, row._distance) for row in found.collect()]  # a sort would search twice

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        raise NotImplementedError

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
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
        ).collect()
        nearest = sorted((row.q, row._distance, row.id) for row in found)
        return [[one for query, _, one in nearest if query == number] for number in range(len(vectors))]

    def append(self, rows: pa.Table) -> None:
        frame = self.spark.createDataFrame(rows).coalesce(1)
        frame.write.format("lake").mode("append").save(self.table.uri)

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        schema = pa.schema([self.table.open().schema.field(name) for name in columns])
        rows = self._frame(columns).select(*columns).toLocalIterator()
        while some := list(itertools.islice(rows, 500)):
            yield pa.Table.from_pylist([row.asDict() for row in some], schema)

    def knn_of_a_column(self) -> object:
        return self._rows(
            f"SELECT n.id FROM {self._copied} c, lake_knn(path => '{self.table.uri}', q => c.title, k => 3) n"
        )

    def ask_with_an_unknown_option(self, name: str) -> object:
        return self.spark.read.format("lake").option(name, 1).load(self.table.uri).collect()

    def maps_vectors(self) -> bool:
        return False

    def close(self) -> None: ...


class Spark:
    name = "Spark"
    slow = True
    errors = (PySparkException, Py4JJavaError, LakeError)
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
        }
    )

    def open(self, table: Reached, copy: pa.Table | None = None) -> SparkSession:
        table.open()
        return SparkSession(table, copy)

    def takes(self, kind: pa.DataType) -> bool:
        try:
            TYPES.declared(kind)
        except lake.UnsupportedError:
            return False
        return True


ENGINE = Spark()
