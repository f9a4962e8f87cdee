"""DuckDB through ``lake_connectors.duckdb``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import duckdb
import pyarrow as pa

from conformance.engine import Reached, Support
from conformance.sql import select
from lake_connectors.duckdb import LakeConnection, connect
from lake_connectors.duckdb.types import TYPES


class DuckDBSession:
    def __init__(self, con: LakeConnection) -> None:
        self.con = con

    def _rows(self, sql: str) -> pa.Table:
        return self.con.sql(sql).to_arrow_table()

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        return self._rows(select("items", columns, where, limit))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        return self._rows(select("copied", columns, where))

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        sql = f"SELECT id, _distance FROM knn('items', ?, {k}) WHERE {where or 'true'} ORDER BY _distance"
        return self.con.execute(sql, [list(vector)]).fetchall()

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        sql = f"""SELECT id FROM items WHERE {where or "true"}
            ORDER BY array_distance(vec, ?::FLOAT[{len(vector)}]) LIMIT {k}"""
        return [row[0] for row in self.con.execute(sql, [list(vector)]).fetchall()]

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
        queries = pa.table({"q": range(len(vectors)), "v": pa.array(vectors, pa.list_(pa.float32()))})
        self.con.register("queries", queries)
        rows = self.con.execute(
            f"""SELECT q, n.id FROM queries,
            LATERAL (SELECT unnest(knn_vec(v, {k}), recursive := true)) n ORDER BY q, n._distance"""
        ).fetchall()
        return [[found for query, found in rows if query == number] for number in range(len(vectors))]

    def append(self, rows: pa.Table) -> None:
        self.con.register("new", rows)
        self.con.execute("INSERT INTO items SELECT * FROM new")

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        with self.con.sql(select("items", columns)).to_arrow_reader(500) as reader:
            yield from (pa.table(batch) for batch in reader)

    def knn_of_a_column(self) -> object:
        return self._rows("SELECT n.id FROM copied c, knn('items', c.vec, 3) n")

    def ask_with_an_unknown_option(self, name: str) -> object:
        return self._rows(f"SELECT id FROM knn('items', [1, 2], 3, {name} := 1)")

    def maps_vectors(self) -> bool:
        return False

    def close(self) -> None:
        self.con.close()


class DuckDB:
    name = "DuckDB"
    slow = False
    differs: Mapping[str, str] = MappingProxyType({})
    errors = (duckdb.Error, OSError)
    support: Mapping[str, Support] = {
        "types": "pushed",
        "projection": "pushed",
        "filter": "pushed",
        "odd filter": "answered",
        "limit": "pushed",
        "knn": "pushed",
        "knn filter": "pushed",
        "knn odd filter": "answered",
        "order by": "pushed",
        "knn join": "pushed",
        "new rows": "pushed",
        "new columns": "pushed",
        "version": "pushed",
        "append": "pushed",
        "evolution": "pushed",
        "imported": "pushed",
        "mapped vectors": "absent",
    }

    def open(self, table: Reached, copy: pa.Table | None = None) -> DuckDBSession:
        con = connect()
        con.execute("SET TimeZone = 'UTC'")
        con.attach(
            table.uri,
            "items",
            version=table.version,
            storage_options=dict(table.storage_options),
            allow_external=table.allow_external,
        )
        if copy is not None:
            con.register("source", copy.cast(TYPES.schema(copy.schema)))
            con.execute("CREATE TABLE copied AS SELECT * FROM source")
        return DuckDBSession(con)

    def takes(self, kind: pa.DataType) -> bool:
        return not (pa.types.is_decimal(kind) and kind.precision > 38)


ENGINE = DuckDB()
