"""What DuckDB adds to a search: ``python -m bench.duckdb_knn [--rows 100000] [--rounds 100] [--interface public]``.

The same neighbours by ``Table.search``, by ``knn()`` on our connection and on a plain one of DuckDB, by ``ORDER BY …
LIMIT`` through ours, and by DuckDB's own brute force over a copy; alternated, warm. Bounds: knn() at most 3 ms
over the search, the pushed ORDER BY at most 2 ms over knn().
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Callable

import duckdb
import numpy as np

import lake_format as lake
from bench.data import CACHE, clustered, items
from bench.harness import Comparison, alternate, machine
from lake_connectors.duckdb import LakeConnection, connect

K = 10
TASKS = {
    "k=10": "true",
    "filter pushed": "price < 10",
    "filter kept by DuckDB": "title LIKE 're%'",
}


def made(rows: int) -> tuple[lake.Table, np.ndarray]:
    """A table with an index, kept between runs, and queries of its kind."""
    vectors, queries = clustered(rows)
    root = CACHE / "bench" / f"duckdb-{rows}"
    if not (root / "indexed").exists():
        shutil.rmtree(root, ignore_errors=True)
        batches = items(vectors)
        first = next(batches)
        table = lake.create(str(root / "items"), first.schema)
        table.append(itertools.chain([first], batches)).create_index("vec")
        (root / "indexed").touch()
    return lake.open(str(root / "items")), queries


def contestants(
    table: lake.Table, con: LakeConnection, queries: np.ndarray, where: str, brute: bool
) -> dict[str, Callable[[], object]]:
    """The same question in each way; every call takes the next query."""
    columns = ["id", "price", "category", "title"]
    names = ", ".join(columns)
    by = f"array_distance(vec, ?::FLOAT[{queries.shape[1]}])"
    condition = None if where == "true" else where
    filtered = "" if condition is None else f"WHERE {condition}"
    knn = f"SELECT {names} FROM knn('items', ?, {K}) {filtered}"
    ordered = f"SELECT {names} FROM items {filtered} ORDER BY {by} LIMIT {K}"
    vectors = itertools.cycle([query.tolist() for query in queries])
    ways: dict[str, Callable[[], object]] = {
        "Table.search": lambda: table.search(next(vectors), K, where=condition, select=columns).to_arrow(),
        "knn()": lambda: con.execute(knn, [next(vectors)]).fetchall(),
        "knn(), plain": lambda: con.duckdb.execute(knn, [next(vectors)]).fetchall(),
        "ORDER BY": lambda: con.execute(ordered, [next(vectors)]).fetchall(),
    }
    if brute:
        copied = ordered.replace("FROM items", "FROM copied")
        ways["DuckDB itself"] = lambda: con.duckdb.execute(copied, [next(vectors)]).fetchall()
    return ways


def line(result: Comparison) -> str:
    """Medians and what each way adds to the search, in milliseconds."""
    base = result.median("Table.search")
    parts = [
        f"{name} {result.median(name) * 1e3:7.2f} (+{(result.median(name) - base) * 1e3:.2f})"
        for name in result.seconds
    ]
    return f"{result.task:<24}" + "   ".join(parts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--interface", choices=("sources", "public"), default="sources")
    parser.add_argument("--no-brute-force", action="store_true")
    options = parser.parse_args()
    table, queries = made(options.rows)
    con = connect(interface=options.interface).attach(table, "items")
    if not options.no_brute_force:
        con.execute("CREATE TABLE copied AS SELECT id, price, category, title, vec FROM items")
    print(
        f"{machine()}\nDuckDB {duckdb.__version__}, interface {options.interface}; "
        f"{options.rows:,} rows of {queries.shape[1]}; milliseconds"
    )
    for task, where in TASKS.items():
        for query in queries:  # from here on no way waits for the disk, whichever asks first
            table.search(query, K, where=None if where == "true" else where)
        ways = contestants(table, con, queries, where, not options.no_brute_force)
        print(line(alternate(task, ways, rounds=options.rounds, warmups=5)))
    con.close()


if __name__ == "__main__":
    main()
