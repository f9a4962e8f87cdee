"""Polars through ``lake_connectors.polars``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import polars as pl
import pyarrow as pa

import lake_format as lake
from conformance.engine import Reached, Support
from conformance.mapped import lies_in_mapped_file
from conformance.sql import select
from lake_connectors.polars import scan
from lake_connectors.polars.types import TYPES


class PolarsSession:
    def __init__(self, table: Reached, copy: pa.Table | None) -> None:
        self.attach(table)
        self.copy = copy

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        return _rows(self.frame, "items", select("items", columns, where, limit))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        assert self.copy is not None
        return _rows(
            pl.from_arrow(self.copy.cast(TYPES.schema(self.copy.schema))).lazy(),
            "copied",
            select("copied", columns, where),
        )

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        raise NotImplementedError

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        raise NotImplementedError

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
        raise NotImplementedError

    def append(self, rows: pa.Table) -> None:
        self.table.append(pl.from_arrow(rows))

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for batch in self.frame.select(columns).collect_batches(chunk_size=500, maintain_order=True):
            yield batch.to_arrow()

    def attach(self, table: Reached) -> None:
        found = table.open()
        self.frame = scan(found)
        self.reached, self.table = table, found

    def attach_with(self, **options: object) -> None:
        self.frame = scan(self.reached.uri, **options)

    def search(self, vector: object, k: object = 3, **options: object) -> object:
        raise NotImplementedError

    def search_by_a_column(self, name: str) -> object:
        raise NotImplementedError

    def ask_with_an_unknown_option(self, name: str) -> object:
        raise NotImplementedError

    def maps_vectors(self) -> bool:
        found = self.frame.select("vec").collect().to_arrow()
        return lies_in_mapped_file(found.column("vec"))

    def close(self) -> None: ...


def _rows(frame: pl.LazyFrame, name: str, sql: str) -> pa.Table:
    return pl.SQLContext({name: frame}).execute(sql).collect().to_arrow()


class Polars:
    name = "Polars"
    slow = False
    differs: Mapping[str, str] = MappingProxyType({})
    errors = (pl.exceptions.PolarsError, lake.LakeError)
    options: frozenset[str] = frozenset()
    words: Mapping[str, str] = MappingProxyType({})
    support: Mapping[str, Support] = {
        "types": "pushed",
        "projection": "pushed",
        "filter": "pushed",
        "odd filter": "answered",
        "limit": "pushed",
        "knn": "absent",
        "knn filter": "absent",
        "knn odd filter": "absent",
        "order by": "absent",
        "knn join": "absent",
        "new rows": "pushed",
        "new columns": "pushed",
        "version": "pushed",
        "append": "pushed",
        "evolution": "pushed",
        "imported": "pushed",
        "mapped vectors": "pushed",
        "mistakes": "answered",
    }

    def open(self, table: Reached, copy: pa.Table | None = None) -> PolarsSession:
        return PolarsSession(table, copy)

    def owns(self, error: BaseException) -> bool:
        return isinstance(error, self.errors)

    def takes(self, kind: pa.DataType) -> bool:
        return not (pa.types.is_decimal(kind) and kind.precision > 38)


ENGINE = Polars()
