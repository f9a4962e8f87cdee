"""Lance through the engines it was built for, in an environment of its own; run by ``bench.lance_engines``.

Reads JSON lines ``{"engine", "sql", "vector"}`` and answers ``{"seconds", "cpu", "rows"}``, or ``{"error"}``. Imports
nothing of this project: its engines are those versions that Lance's extension and provider were compiled for. Only
the engine's work is timed, not what turns its answer into JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[str, "list[float] | None"], Any]


def duckdb_connection() -> Any:
    """A new DuckDB connection with Lance's extension."""
    import duckdb
    import duckdb_extension_lance as extension

    con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    con.execute(f"LOAD '{next(Path(extension.__file__).parent.rglob('lance.duckdb_extension'))}'")
    return con


def duckdb_ask() -> Ask:
    """DuckDB on one connection."""
    con = duckdb_connection()
    return lambda sql, vector: con.execute(sql, None if vector is None else [vector]).fetchall()


def duckdb_ask_anew(sql: str, _: list[float] | None) -> Any:
    """DuckDB on a connection of this question."""
    with duckdb_connection() as con:
        return con.execute(sql).fetchall()


def datafusion_ask(uri: str) -> Ask:
    """DataFusion with Lance's table provider, the table named ``items``."""
    import lance
    import pyarrow as pa
    from datafusion import SessionContext

    ctx = SessionContext()
    ctx.register_table("items", lance.FFILanceTableProvider(lance.dataset(uri)))
    kind = pa.list_(pa.float32())

    def ask(sql: str, vector: list[float] | None) -> Any:
        values = None if vector is None else {"q": pa.scalar(vector, kind)}
        return ctx.sql(sql, param_values=values).to_arrow_table()

    return ask


def rows_of(answer: Any) -> list[list[object]]:
    """An answer as lists."""
    if isinstance(answer, list):
        return [list(row) for row in answer]
    return [list(row.values()) for row in answer.to_pylist()]


def main(uri: str) -> None:
    """Answer until the input ends."""
    engines = {"duckdb": duckdb_ask(), "duckdb anew": duckdb_ask_anew, "datafusion": datafusion_ask(uri)}
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            started, used = time.perf_counter(), time.process_time()
            found = engines[wanted["engine"]](wanted["sql"], wanted["vector"])
            seconds, cpu = time.perf_counter() - started, time.process_time() - used
            answer = {"seconds": seconds, "cpu": cpu, "rows": rows_of(found)}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
