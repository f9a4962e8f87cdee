"""The same questions to the same engines over a lake table and over Lance: ``python -m bench.lance_engines``.

Lance's DuckDB extension and its DataFusion provider each fit one version of their engine, older than those installed
here, so that Lance answers from an environment of its own (``bench.lance_worker``, made on first use) and reports
how long it took. Searches ask both for recall@10 of at least .95, Lance with the fastest settings found that reach
it: IVF_PQ in the extension, which misreads IVF_RQ (recall .04) and ends the process under a filter over it. Through
DuckDB Lance is also asked in the way that works with any version: pylance's scanner with the better of IVF_RQ and
IVF_PQ, whose answer DuckDB reads as Arrow; there DuckDB has no part in the search.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("LANCE_LOG", "error")  # read when the package loads

import lance
import numpy as np

import lake_format as lake
from bench.core import best_lance, index_lance, lance_configurations, write_lance
from bench.data import CACHE, clustered, items, nearest
from bench.harness import Comparison, machine, show
from lake_connectors import datafusion as lake_datafusion
from lake_connectors import duckdb as lake_duckdb

K = 10
PEERS = ("duckdb==1.5.5", "duckdb-extension-lance==1.5.5", "datafusion==54.0.0", "pylance==14.0.2", "numpy")
COLUMNS = ("id", "title", "price")
NAMES = ", ".join(COLUMNS)
FILTERS = {
    "no filter": None,
    "10 % match": "price < 10",
    "1 % match": "price < 1",
    "LIKE": "title LIKE 're%'",
}
QUESTIONS = {
    "sum of one column": "SELECT sum(price) FROM {table}",
    "group by a text column": "SELECT category, avg(price) FROM {table} GROUP BY category",
    "count where 1 % match": "SELECT count(*), max(title) FROM {table} WHERE price < 1",
    "10 rows by an ascending id": f"SELECT {NAMES} FROM {{table}} WHERE id IN ({{ids}})",
    "one row with its vector": f"SELECT {NAMES}, vec FROM {{table}} WHERE id = {{one}}",
}


class Worker:
    """Lance in its own environment."""

    def __init__(self, uri: str) -> None:
        script = Path(__file__).with_name("lance_worker.py")
        self._process = subprocess.Popen(
            [str(_environment() / "bin" / "python"), str(script), uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, engine: str, sql: str, vector: list[float] | None = None) -> tuple[float, list[Any]]:
        """Seconds that the answer took in the worker, and its rows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"engine": engine, "sql": sql, "vector": vector}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the worker ended"}')
        if "error" in answer:
            raise RuntimeError(f"{engine}: {answer['error']}")
        return answer["seconds"], answer["rows"]


def _environment() -> Path:
    """The folder of Lance's environment, made on first use."""
    root = CACHE / "bench" / "lance-peers"
    done = root / "-".join(PEERS).replace("==", "-")
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(root)], check=True)
        subprocess.run([str(root / "bin" / "pip"), "install", "--quiet", *PEERS], check=True)
        done.touch()
    return root


Way = Callable[[], tuple[float, Any]]
"""One way to ask: asks once, returns the seconds it took and the answer."""


def timed(run: Callable[[], Any]) -> Way:
    """A way that is timed here."""

    def ask() -> tuple[float, Any]:
        started = time.perf_counter()
        answer = run()
        return time.perf_counter() - started, answer

    return ask


def compare(task: str, ways: dict[str, Way], rounds: int, warmups: int = 3) -> Comparison:
    """Each way once a round, in turn."""
    result = Comparison(task, {name: [] for name in ways})
    for number in range(rounds + warmups):
        for name, way in ways.items():
            seconds, _ = way()
            if number >= warmups:
                result.seconds[name].append(seconds)
    return result


class Sides:
    """The same rows as a table and as Lance, both indexed; kept between runs."""

    def __init__(self, rows: int) -> None:
        vectors, self.queries = clustered(rows)
        self.root = CACHE / "bench" / f"lance-engines-{rows}"
        self.uri = str(self.root / "items")
        if not (self.root / "done").exists():
            self._make(vectors, rows)
        self.truth = nearest(vectors, self.queries, K)
        self.settings = json.loads((self.root / "done").read_text(encoding="utf-8"))
        self.vectors = itertools.cycle([query.tolist() for query in self.queries])

    def _make(self, vectors: np.ndarray, rows: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        source = str(self.root / "vectors.npy")
        np.save(source, vectors)
        batches = items(vectors)
        first = next(batches)
        lake.create(self.uri, first.schema).append(itertools.chain([first], batches)).create_index("vec")
        truth = nearest(vectors, self.queries, K)
        settings = {}
        for kind, options in lance_configurations(rows, vectors.shape[1], ["IVF_PQ", "IVF_RQ"]).items():
            write_lance(self.lance_uri(kind), source, rows)
            index_lance(self.lance_uri(kind), options)
            best = best_lance(lance.dataset(self.lance_uri(kind)), kind, self.queries, truth)
            assert best is not None, f"{kind} does not reach the recall"
            settings[kind] = {"nearest": best[0], "seconds": best[2]}
        (self.root / "done").write_text(json.dumps(settings), encoding="utf-8")

    def lance_uri(self, kind: str) -> str:
        """Where Lance's rows with that index are."""
        return str(self.root / f"{kind}.lance")


def _extension_call(sides: Sides) -> str:
    """The search by Lance's extension, its vector a parameter."""
    given = sides.settings["IVF_PQ"]["nearest"]
    options = f"nprobs := {given['nprobes']}, refine_factor := {given['refine_factor']}"
    uri = sides.lance_uri("IVF_PQ")
    return f"lance_vector_search('{uri}', 'vec', ?::FLOAT[128], k := {K}, prefilter := true, {options})"


def in_duckdb(sides: Sides, worker: Worker) -> None:
    """Searches, then scans, in DuckDB."""
    con = lake_duckdb.connect().attach(sides.uri, "items")
    kind = min(sides.settings, key=lambda one: sides.settings[one]["seconds"])
    dataset, options = lance.dataset(sides.lance_uri(kind)), sides.settings[kind]["nearest"]
    call = _extension_call(sides)
    recall = {
        "lake": _recall(sides, lambda q: con.execute(f"SELECT id FROM knn('items', ?, {K})", [q]).fetchall())
    }
    recall["Lance"] = _recall(sides, lambda q: worker.ask("duckdb", f"SELECT id FROM {call}", q)[1])
    for label, where in FILTERS.items():
        condition = f"WHERE {where}" if where else ""
        own = f"SELECT {NAMES} FROM knn('items', ?, {K}) {condition}"
        by = f"ORDER BY array_distance(vec, ?::FLOAT[128]) LIMIT {K}"
        ordered = f"SELECT {NAMES} FROM items {condition} {by}"
        theirs = f"SELECT {NAMES} FROM {call} {condition}"

        def scanner(where: str | None = where) -> list[Any]:
            request = {"column": "vec", "q": np.array(next(sides.vectors), np.float32), "k": K, **options}
            reader = dataset.scanner(
                columns=list(COLUMNS), nearest=request, filter=where, prefilter=True
            ).to_reader()
            con.duckdb.register("found", reader)
            return con.duckdb.execute(f"SELECT {NAMES} FROM found").fetchall()

        ways: dict[str, Way] = {
            "lake": timed(lambda own=own: con.execute(own, [next(sides.vectors)]).fetchall()),
            "lake ORDER BY": timed(
                lambda ordered=ordered: con.execute(ordered, [next(sides.vectors)]).fetchall()
            ),
            "Lance's extension": lambda theirs=theirs: worker.ask("duckdb", theirs, next(sides.vectors)),
            "Lance's scanner": timed(scanner),
        }
        if label == "LIKE":
            del ways["Lance's extension"]  # it filters so after the search, and too few rows are left
        for name, way in ways.items():
            assert len(way()[1]) == K, f"{name} found fewer than {K} where {where}"
        result = compare(f"DuckDB: search, {label}", ways, rounds=40)
        if where is None:
            result.notes |= {
                "lake": f"recall {recall['lake']:.3f}",
                "Lance's extension": f"recall {recall['Lance']:.3f}",
            }
        print(show(result), flush=True)
    _questions(
        "DuckDB", "duckdb", f"'{sides.lance_uri('IVF_PQ')}'", worker, lambda sql: con.execute(sql).fetchall()
    )


def in_datafusion(sides: Sides, worker: Worker) -> None:
    """The same in DataFusion, where Lance's provider offers scans and no search: it computes every distance."""
    ctx = lake_datafusion.connect().attach(sides.uri, "items")
    import pyarrow as pa

    kind = pa.list_(pa.float32())
    for label, where in FILTERS.items():
        condition = f"WHERE {where}" if where else ""
        ordered = f"SELECT {NAMES} FROM items {condition} ORDER BY array_distance(vec, $q) LIMIT {K}"
        own = f"SELECT {NAMES} FROM knn('items', $q, {K}) {condition}"

        def ask(sql: str) -> Way:
            return timed(
                lambda: ctx.sql(
                    sql, param_values={"q": pa.scalar(next(sides.vectors), kind)}
                ).to_arrow_table()
            )

        ways: dict[str, Way] = {
            "lake": ask(own),
            "lake ORDER BY": ask(ordered),
            "Lance's provider": lambda ordered=ordered: worker.ask(
                "datafusion", ordered, next(sides.vectors)
            ),
        }
        print(show(compare(f"DataFusion: search, {label}", ways, rounds=10)), flush=True)
    _questions("DataFusion", "datafusion", "items", worker, lambda sql: ctx.sql(sql).to_arrow_table())


def _questions(title: str, engine: str, theirs: str, worker: Worker, own: Callable[[str], Any]) -> None:
    random = np.random.default_rng(5)
    for label, sql in QUESTIONS.items():

        def filled(table: str, sql: str = sql) -> str:
            ids = random.integers(0, 100_000, K)
            return sql.format(table=table, ids=", ".join(map(str, ids)), one=ids[0])

        ways: dict[str, Way] = {
            "lake": timed(lambda filled=filled: own(filled("items"))),
            "Lance": lambda filled=filled: worker.ask(engine, filled(theirs)),
        }
        print(show(compare(f"{title}: {label}", ways, rounds=20)), flush=True)


def _recall(sides: Sides, ask: Callable[[list[float]], list[Any]]) -> float:
    hits = sum(
        len({row[0] for row in ask(query.tolist())} & set(true.tolist()))
        for query, true in zip(sides.queries[:60], sides.truth, strict=False)
    )
    return hits / (60 * K)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    sides = Sides(options.rows)
    worker = Worker(sides.lance_uri("IVF_PQ"))
    print(f"{machine()}\nLance's side: {', '.join(PEERS)}; {options.rows:,} rows of 128")
    for kind, found in sides.settings.items():
        print(f"{kind}: {found['nearest']}, {found['seconds'] * 1e3:.2f} ms alone")
    in_duckdb(sides, worker)
    in_datafusion(sides, worker)


if __name__ == "__main__":
    main()
