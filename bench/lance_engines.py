"""The same questions to the same engines over a lake table and over Lance: ``python -m bench.lance_engines``.

Lance is asked in the best ways it has. Its DuckDB extension and its DataFusion provider each fit one version of
their engine, older than those installed here, and answer from an environment of their own (``bench.lance_worker``,
made on first use). With any version works pylance's scanner, whose answer the engine reads as Arrow. Recall@10
against brute force stands beside every search; Lance's settings (``bench.lance_sides``) are the cheapest that reach
.95, tuned for each filter. In a round every way gets the same question; CPU time is that of all threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ.setdefault("LANCE_LOG", "error")  # read when the package loads

import duckdb
import lance
import numpy as np
import pyarrow as pa
from datafusion import SessionContext

import lake_format as lake
from bench.data import CACHE
from bench.harness import Comparison, machine, show
from bench.lance_sides import FILTERS, QUERIES, WANTED, K, Sides
from lake_connectors import datafusion as lake_datafusion
from lake_connectors import duckdb as lake_duckdb

PEERS = ("duckdb==1.5.5", "duckdb-extension-lance==1.5.5", "datafusion==54.0.0", "pylance==14.0.2", "numpy")
NAMES = "id, title, price"
VECTOR = pa.list_(pa.float32())
QUESTIONS = {
    "sum of one column": "SELECT sum(price) FROM {table}",
    "group by a text column": "SELECT category, avg(price) FROM {table} GROUP BY category",
    "count where 1 % match": "SELECT count(*), max(title) FROM {table} WHERE price < 1",
    "10 rows by an ascending id": f"SELECT {NAMES} FROM {{table}} WHERE id IN ({{ids}})",
    "one row with its vector": f"SELECT {NAMES}, vec FROM {{table}} WHERE id = {{one}}",
}


class Answer(NamedTuple):
    """What one question cost, and its rows."""

    seconds: float
    cpu: float
    rows: Any


Way = Callable[[Any], Answer]
"""One way to ask, given the query vector or the ids wanted."""


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

    def ask(self, engine: str, sql: str, vector: list[float] | None = None) -> Answer:
        """The answer, with the times taken in the worker."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"engine": engine, "sql": sql, "vector": vector}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the worker ended"}')
        if "error" in answer:
            raise RuntimeError(f"{engine}: {answer['error']}")
        return Answer(answer["seconds"], answer["cpu"], answer["rows"])

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _environment() -> Path:
    """The folder of Lance's environment, made on first use."""
    root = CACHE / "bench" / "lance-peers"
    done = root / "-".join(PEERS).replace("==", "-")
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(root)], check=True)
        subprocess.run([str(root / "bin" / "pip"), "install", "--quiet", *PEERS], check=True)
        done.touch()
    return root


def timed(run: Callable[[Any], Any]) -> Way:
    """A way that is timed here."""

    def ask(question: Any) -> Answer:
        started, used = time.perf_counter(), time.process_time()
        rows = run(question)
        return Answer(time.perf_counter() - started, time.process_time() - used, rows)

    return ask


def compare(task: str, ways: dict[str, Way], questions: Iterator[Any], rounds: int) -> None:
    """Print the medians of each way, asked the same once a round in turn, with its CPU time."""
    result = Comparison(task, {name: [] for name in ways})
    used: dict[str, list[float]] = {name: [] for name in ways}
    for number, question in zip(range(rounds + 3), questions, strict=False):
        for name, way in ways.items():
            answer = way(question)
            if number >= 3:
                result.seconds[name].append(answer.seconds)
                used[name].append(answer.cpu)
    for name, times in used.items():
        ratio = median(times) / median(used["lake"])
        result.notes[name] = f"CPU {median(times) * 1e3:7.2f} ms {ratio:6.2f}x"
    print(show(result), flush=True)


def searches(engine: str, sides: Sides, ways_of: Callable[[str], dict[str, Way]], rounds: int) -> None:
    """Searches with each filter: recall of every way over many queries, then times."""
    queries = [query.tolist() for query in sides.queries[:QUERIES]]
    for label in FILTERS:
        ways = ways_of(label)
        found = {name: [_ids(way(query)) for query in queries] for name, way in ways.items()}
        recalls = {name: sides.recall(label, ids) for name, ids in found.items()}
        for name, recall in recalls.items():
            assert recall >= WANTED, f"{engine}, {label}: {name} reaches a recall of {recall:.3f}"
        compare(f"{engine}: search, {label}", ways, itertools.cycle(queries), rounds)
        print("  recall: " + ", ".join(f"{name} {recall:.3f}" for name, recall in recalls.items()))


def _ids(answer: Answer) -> list[int]:
    if isinstance(answer.rows, pa.Table):
        assert answer.rows.num_rows == K
        return answer.rows.column("id").to_pylist()
    assert len(answer.rows) == K
    return [row[0] for row in answer.rows]


def _extension_sql(sides: Sides, kind: str, label: str) -> str:
    """The search by Lance's extension, its vector a parameter."""
    given = sides.settings[label][kind]["options"]
    options = f"k := {K}, prefilter := true, nprobs := {given['nprobes']}"
    if "refine_factor" in given:
        options += f", refine_factor := {given['refine_factor']}"
    dimension = sides.queries.shape[1]
    call = f"lance_vector_search('{sides.lance_uri(kind)}', 'vec', ?::FLOAT[{dimension}], {options})"
    return f"SELECT {NAMES} FROM {call} {_where(label)}"


def _where(label: str) -> str:
    return f"WHERE {FILTERS[label]}" if FILTERS[label] else ""


def _scanner(sides: Sides, label: str) -> tuple[str, Callable[[list[float]], pa.RecordBatchReader]]:
    """Pylance's search as a stream of Arrow, with the fastest index kind for the filter."""
    kind = min(sides.settings[label], key=lambda one: sides.settings[label][one]["seconds"])
    dataset, options = lance.dataset(sides.lance_uri(kind)), sides.settings[label][kind]["options"]

    def search(query: list[float]) -> pa.RecordBatchReader:
        request = {"column": "vec", "q": np.array(query, np.float32), "k": K, **options}
        columns = NAMES.split(", ")
        return dataset.scanner(
            columns=columns, nearest=request, filter=FILTERS[label], prefilter=True
        ).to_reader()

    return f"scanner, {kind}", search


def in_duckdb(sides: Sides, worker: Worker) -> None:
    """Searches, then scans, in DuckDB."""
    con, plain = lake_duckdb.connect().attach(sides.uri, "items"), duckdb.connect()
    ordered = f"ORDER BY array_distance(vec, ?::FLOAT[{sides.queries.shape[1]}]) LIMIT {K}"

    table = lake.open(sides.uri)

    def ways_of(label: str) -> dict[str, Way]:
        name, search = _scanner(sides, label)
        own = f"SELECT {NAMES} FROM knn('items', ?, {K}) {_where(label)}"
        by = f"SELECT {NAMES} FROM items {_where(label)} {ordered}"
        ways = {
            "lake": timed(lambda q: con.execute(own, [q]).fetchall()),
            "lake ORDER BY": timed(lambda q: con.execute(by, [q]).fetchall()),
            name: timed(lambda q: plain.from_arrow(search(q)).fetchall()),
            "lake, no engine": timed(
                lambda q: table.search(q, K, where=FILTERS[label], select=NAMES.split(", ")).to_arrow()
            ),
            "scanner, no engine": timed(lambda q: search(q).read_all()),
        }
        for kind in ("IVF_PQ", "IVF_FLAT"):  # of the extension's IVF_RQ see README.md
            sql = _extension_sql(sides, kind, label)
            ways[f"extension, {kind}"] = lambda q, sql=sql: worker.ask("duckdb", sql, q)
        return ways

    searches("DuckDB", sides, ways_of, rounds=30)
    _scans_in_duckdb(sides, worker, con, plain, ordered)
    _opened(sides, worker)
    con.close()


def _scans_in_duckdb(sides: Sides, worker: Worker, con: Any, plain: Any, ordered: str) -> None:
    """What computes every distance, and questions without a vector."""
    every = f"SELECT {NAMES} FROM {{}} {ordered}"
    ways: dict[str, Way] = {
        "lake": timed(lambda q: con.execute(every.format("items"), [q]).fetchall()),
        "extension": lambda q: worker.ask("duckdb", every.format(f"'{sides.lance_uri('IVF_PQ')}'"), q),
    }
    compare("DuckDB: ORDER BY distance LIMIT 10 over the table", ways, sides.cycle(), rounds=5)
    plain.register("in_lance", lance.dataset(sides.lance_uri("IVF_PQ")))
    plain.register("in_lance_btree", lance.dataset(sides.lance_uri("IVF_RQ")))
    paths = {"": f"'{sides.lance_uri('IVF_PQ')}'", "_btree": f"'{sides.lance_uri('IVF_RQ')}'"}

    def scans_of(sql: str, index: str) -> dict[str, Way]:
        return {
            "extension": lambda ids: worker.ask("duckdb", _filled(sql, paths[index], ids)),
            "dataset": timed(lambda ids: plain.execute(_filled(sql, "in_lance" + index, ids)).fetchall()),
        }

    scans("DuckDB", sides, lambda sql: con.execute(sql).fetchall(), scans_of)


def _opened(sides: Sides, worker: Worker) -> None:
    """A new connection, the table opened, and one row."""
    sql = QUESTIONS["one row with its vector"]

    def own(ids: list[int]) -> Any:
        with lake_duckdb.connect() as con:
            return con.attach(sides.uri, "items").execute(_filled(sql, "items", ids)).fetchall()

    def pylance(ids: list[int]) -> Any:
        with duckdb.connect() as con:
            con.register("found", lance.dataset(sides.lance_uri("IVF_RQ")))
            return con.execute(_filled(sql, "found", ids)).fetchall()

    path = f"'{sides.lance_uri('IVF_RQ')}'"
    ways: dict[str, Way] = {
        "lake": timed(own),
        "extension, BTREE": lambda ids: worker.ask("duckdb anew", _filled(sql, path, ids)),
        "dataset, BTREE": timed(pylance),
    }
    compare("DuckDB: connect, open, and one row with its vector", ways, _some_ids(sides), rounds=15)


def in_datafusion(sides: Sides, worker: Worker) -> None:
    """The same in DataFusion; Lance's provider offers scans and no search, so that it computes every distance."""
    ctx, plain = lake_datafusion.connect().attach(sides.uri, "items"), SessionContext()
    ordered = f"ORDER BY array_distance(vec, $q) LIMIT {K}"

    def asked(sql: str) -> Way:
        return timed(lambda q: ctx.sql(sql, param_values={"q": pa.scalar(q, VECTOR)}).to_arrow_table())

    def ways_of(label: str) -> dict[str, Way]:
        name, search = _scanner(sides, label)
        return {
            "lake": asked(f"SELECT {NAMES} FROM knn('items', $q, {K}) {_where(label)}"),
            "lake ORDER BY": asked(f"SELECT {NAMES} FROM items {_where(label)} {ordered}"),
            name: timed(lambda q: plain.from_arrow(search(q)).to_arrow_table()),
        }

    searches("DataFusion", sides, ways_of, rounds=30)
    every = f"SELECT {NAMES} FROM items {ordered}"
    ways: dict[str, Way] = {
        "lake": asked(every),
        "provider": lambda q: worker.ask("datafusion", every, q),
    }
    compare("DataFusion: ORDER BY distance LIMIT 10 over the table", ways, sides.cycle(), rounds=5)
    datasets = {
        "": lance.dataset(sides.lance_uri("IVF_PQ")),
        "_btree": lance.dataset(sides.lance_uri("IVF_RQ")),
    }

    def own_sql(sql: str, index: str, ids: list[int]) -> pa.Table:
        batches = datasets[index].sql(_filled(sql, "dataset", ids)).build().to_batch_records()
        return pa.Table.from_batches(batches)

    def scans_of(sql: str, index: str) -> dict[str, Way]:
        ways: dict[str, Way] = {"dataset.sql": timed(lambda ids: own_sql(sql, index, ids))}
        if not index:
            ways["provider"] = lambda ids: worker.ask("datafusion", _filled(sql, "items", ids))
        return ways

    scans("DataFusion", sides, lambda sql: ctx.sql(sql).to_arrow_table(), scans_of)


def scans(
    engine: str, sides: Sides, own: Callable[[str], Any], lances: Callable[[str, str], dict[str, Way]]
) -> None:
    """Questions without a vector; rows by id also where Lance has a BTREE index on id."""
    for label, sql in QUESTIONS.items():
        ways = {"lake": timed(lambda ids, sql=sql: own(_filled(sql, "items", ids))), **lances(sql, "")}
        if "id" in label or "row" in label:
            ways |= {f"{name}, BTREE": way for name, way in lances(sql, "_btree").items()}
        ids = next(_some_ids(sides))
        answers = {name: _comparable(way(ids).rows) for name, way in ways.items()}
        for name, answer in answers.items():
            assert answer == answers["lake"], f"{engine}, {label}: {name} answers otherwise"
        compare(f"{engine}: {label}", ways, _some_ids(sides), rounds=20)


def _comparable(answer: Any) -> list[str]:
    """Rows as texts in order, whatever the engine and the order it sums in."""
    rows = [row.values() for row in answer.to_pylist()] if isinstance(answer, pa.Table) else answer

    def text(cell: Any) -> str:
        if isinstance(cell, list | tuple):
            return ",".join(map(text, cell))
        return f"{cell:.9g}" if isinstance(cell, float) else str(cell)

    return sorted(" | ".join(map(text, row)) for row in rows)


def _filled(sql: str, table: str, ids: list[int]) -> str:
    return sql.format(table=table, ids=", ".join(map(str, ids)), one=ids[0])


def _some_ids(sides: Sides) -> Iterator[list[int]]:
    random = np.random.default_rng(5)
    while True:
        yield random.choice(sides.rows, K, replace=False).tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    sides = Sides(options.rows)
    worker = Worker(sides.lance_uri("IVF_PQ"))
    print(
        f"{machine()}, datafusion 55\nLance's environment: {', '.join(PEERS)}; {options.rows:,} rows of 128"
    )
    for label, kinds in sides.settings.items():
        for kind, found in kinds.items():
            print(f"{label}, {kind}: {found['options']}, recall {found['recall']:.3f}")
    in_duckdb(sides, worker)
    in_datafusion(sides, worker)
    worker.close()


if __name__ == "__main__":
    main()
