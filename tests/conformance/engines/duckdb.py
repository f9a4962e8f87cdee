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
    def __init__(self, con: LakeConnection, table: Reached) -> None:
        self.con = con
        self.table = table

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

    def attach(self, table: Reached) -> None:
        self._attach(table, {})
        self.table = table

    def attach_with(self, **options: object) -> None:
        self._attach(self.table, options)

    def _attach(self, table: Reached, more: Mapping[str, object]) -> None:
        options = {"version": table.version, "allow_external": table.allow_external}
        options |= {"storage_options": dict(table.storage_options), **more}
        self.con.attach(table.uri, "items", **options)

    def search(self, vector: object, k: object = 3, **options: object) -> object:
        table = options.pop("table", "items")
        named = {"vector_column" if name == "column" else name: value for name, value in options.items()}
        more = "".join(f", {name} := {value!r}" for name, value in named.items())
        return self.con.execute(f"SELECT id FROM knn('{table}', ?, {k}{more})", [vector]).fetchall()

    def search_by_a_column(self, name: str) -> object:
        return self._rows(f"SELECT n.id FROM copied c, knn('items', c.{name}, 3) n")

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
    errors = (duckdb.Error,)
    options = frozenset({"option", "metric", "recall", "column", "exact", "table"})
    words: Mapping[str, str] = MappingProxyType(
        {
            "unknown option": r"knn\(\) does not support the supplied arguments.*recall := NULL",
            "text for a vector": r"the query vector and k .* must be constants or parameters, and numbers",
            "column of text for a vector": r"can't be cast to .* FLOAT\[\] when casting from source column title",
        }
    )
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
        "mistakes": "answered",
    }

    def open(self, table: Reached, copy: pa.Table | None = None) -> DuckDBSession:
        con = connect()
        con.execute("SET TimeZone = 'UTC'")
        session = DuckDBSession(con, table)
        session.attach(table)
        if copy is not None:
            con.register("source", copy.cast(TYPES.schema(copy.schema)))
            con.execute("CREATE TABLE copied AS SELECT * FROM source")
        return session

    def owns(self, error: BaseException) -> bool:
        return isinstance(error, self.errors)

    def takes(self, kind: pa.DataType) -> bool:
        return not (pa.types.is_decimal(kind) and kind.precision > 38)


ENGINE = DuckDB()
