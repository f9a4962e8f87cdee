"""Lance through the engines it was built for, in an environment of its own; run by ``bench.lance_engines``.

Reads JSON lines ``{"engine", "sql", "vector"}`` and answers ``{"seconds", "rows"}``, or ``{"error"}``. Imports
nothing of this project: its engines are those versions that Lance's extension and provider were compiled for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Ask = Callable[[str, "list[float] | None"], "list[list[object]]"]


def duckdb_ask() -> Ask:
    """DuckDB with Lance's extension."""
    import duckdb
    import duckdb_extension_lance as extension

    con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    con.execute(f"LOAD '{next(Path(extension.__file__).parent.rglob('lance.duckdb_extension'))}'")

    def ask(sql: str, vector: list[float] | None) -> list[list[object]]:
        return [list(row) for row in con.execute(sql, None if vector is None else [vector]).fetchall()]

    return ask


def datafusion_ask(uri: str) -> Ask:
    """DataFusion with Lance's table provider, the table named ``items``."""
    import lance
    from datafusion import SessionContext

    ctx = SessionContext()
    ctx.register_table("items", lance.FFILanceTableProvider(lance.dataset(uri)))

    def ask(sql: str, vector: list[float] | None) -> list[list[object]]:
        text = sql if vector is None else sql.replace("$q", f"[{', '.join(map(str, vector))}]")
        return [list(row.values()) for row in ctx.sql(text).to_arrow_table().to_pylist()]

    return ask


def main(uri: str) -> None:
    """Answer until the input ends."""
    engines = {"duckdb": duckdb_ask(), "datafusion": datafusion_ask(uri)}
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            started = time.perf_counter()
            rows = engines[wanted["engine"]](wanted["sql"], wanted.get("vector"))
            answer = {"seconds": time.perf_counter() - started, "rows": rows}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
