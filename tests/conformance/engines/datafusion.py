"""DataFusion through ``lake_connectors.datafusion``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
from datafusion import udf

import lake_format as lake
from conformance.engine import Reached, Support
from conformance.mapped import lies_in_mapped_file
from conformance.sql import select
from lake_connectors.datafusion import LakeContext, connect
from lake_connectors.datafusion.types import TYPES

FLOATS = pa.list_(pa.float32())


class DataFusionSession:
    def __init__(self, ctx: LakeContext, table: lake.Table) -> None:
        self.ctx = ctx
        self.table = table

    def _rows(self, sql: str, **parameters: object) -> pa.Table:
        return self.ctx.sql(sql, param_values=parameters or None).to_arrow_table()

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        return self._rows(select("items", columns, where, limit))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        return self._rows(select("copied", columns, where))

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        found = self._rows(
            f"SELECT id, _distance FROM knn('items', $q, {k}) WHERE {where or 'true'} ORDER BY _distance",
            q=pa.scalar(list(vector), FLOATS),
        )
        return list(zip(*found.to_pydict().values(), strict=True))

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        sql = f"SELECT id FROM items WHERE {where or 'true'} ORDER BY array_distance(vec, $q) LIMIT {k}"
        return self._rows(sql, q=pa.scalar(list(vector), FLOATS)).column("id").to_pylist()

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
        raise NotImplementedError

    def append(self, rows: pa.Table) -> None:
        self.ctx.from_arrow(rows, "new")
        self.table.append(self.ctx.sql("SELECT * FROM new"))

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        for batch in self.ctx.sql(select("items", columns)).execute_stream():
            yield pa.table(batch.to_pyarrow())

    def knn_of_a_column(self) -> object:
        return self._rows("SELECT n.id FROM copied c, knn('items', c.vec, 3) n")

    def ask_with_an_unknown_option(self, name: str) -> object:
        return self._rows(f"SELECT id FROM knn('items', [1, 2], 3, {name} => 1)")

    def maps_vectors(self) -> bool:
        mapped = []

        def look(vectors: pa.Array) -> pa.Array:
            mapped.append(lies_in_mapped_file(vectors))
            return pa.array([True] * len(vectors))

        kind = self.ctx.table("items").schema().field("vec").type
        self.ctx.register_udf(udf(look, [kind], pa.bool_(), "volatile", "look"))
        self._rows("SELECT count(*) FROM items WHERE look(vec)")
        return bool(mapped) and all(mapped)

    def close(self) -> None: ...


class DataFusion:
    name = "DataFusion"
    slow = False
    errors = (Exception,)  # DataFusion raises plain ones
    differs: Mapping[str, str] = MappingProxyType({})
    support: Mapping[str, Support] = MappingProxyType(
        {
            "types": "pushed",
            "projection": "pushed",
            "filter": "pushed",
            "odd filter": "answered",
            "limit": "pushed",
            "knn": "pushed",
            "knn filter": "pushed",
            "knn odd filter": "answered",
            "order by": "pushed",
            "knn join": "absent",
            "new rows": "pushed",
            "new columns": "pushed",
            "version": "pushed",
            "append": "pushed",
            "evolution": "pushed",
            "imported": "pushed",
            "mapped vectors": "pushed",
        }
    )

    def open(self, table: Reached, copy: pa.Table | None = None) -> DataFusionSession:
        ctx = connect().attach(
            table.uri,
            "items",
            version=table.version,
            storage_options=dict(table.storage_options),
            allow_external=table.allow_external,
        )
        if copy is not None:
            ctx.from_arrow(copy.cast(TYPES.schema(copy.schema)), "copied")
        return DataFusionSession(ctx, table.open())

    def takes(self, kind: pa.DataType) -> bool:
        return True


ENGINE = DataFusion()
