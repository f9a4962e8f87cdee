"""DataFusion through ``lake_connectors.datafusion``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
from datafusion import udf

from conformance.engine import Reached, Support
from conformance.mapped import lies_in_mapped_file
from conformance.sql import select
from lake_connectors.datafusion import LakeContext, connect
from lake_connectors.datafusion.types import TYPES

FLOATS = pa.list_(pa.float32())
_OWN = re.compile("DataFusion error: |Schema error: |Error during planning: ")
"""How the messages of DataFusion's errors begin, whose types are Python's."""


class DataFusionSession:
    def __init__(self, ctx: LakeContext, table: Reached) -> None:
        self.ctx = ctx
        self.reached = table
        self.table = table.open()

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

    def attach(self, table: Reached) -> None:
        self._attach(table, {})
        self.reached, self.table = table, table.open()

    def attach_with(self, **options: object) -> None:
        self._attach(self.reached, options)

    def _attach(self, table: Reached, more: Mapping[str, object]) -> None:
        options = {"version": table.version, "allow_external": table.allow_external}
        options |= {"storage_options": dict(table.storage_options), **more}
        self.ctx.attach(table.uri, "items", **options)

    def search(self, vector: object, k: object = 3, **options: object) -> object:
        table = options.pop("table", "items")
        given = {"column": "vec", "metric": "l2", "recall": 0.95, "exact": False} | options
        more = ", ".join(repr(given[name]) for name in ("column", "metric", "recall", "exact"))
        return self._rows(f"SELECT id FROM knn('{table}', $q, {k}, {more})", q=vector)

    def search_by_a_column(self, name: str) -> object:
        return self._rows(f"SELECT n.id FROM copied c, knn('items', c.{name}, 3) n")

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
    errors = (Exception,)  # DataFusion raises plain ones, see `owns`
    options = frozenset({"option", "metric", "recall", "column", "exact", "table"})
    words: Mapping[str, str] = MappingProxyType(
        {
            "unknown option": "Unsupported function argument type: probes => 1",
            "text for a vector": "knn\\(\\): the vector 'abc' is no list of numbers",
            "column for a vector": r"vector must be a constant or a parameter, not Expr\(c\.vec\)",
            "column of text for a vector": r"vector must be a constant or a parameter, not Expr\(c\.title\)",
        }
    )
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
            "mistakes": "answered",
        }
    )

    def open(self, table: Reached, copy: pa.Table | None = None) -> DataFusionSession:
        session = DataFusionSession(connect(), table)
        session.attach(table)
        if copy is not None:
            session.ctx.from_arrow(copy.cast(TYPES.schema(copy.schema)), "copied")
        return session

    def owns(self, error: BaseException) -> bool:
        return type(error) in (Exception, ValueError) and _OWN.match(str(error)) is not None

    def takes(self, kind: pa.DataType) -> bool:
        return True


ENGINE = DataFusion()
