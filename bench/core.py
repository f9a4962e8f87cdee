"""The core against Lance, side by side in one run: ``python -m bench.core [--rows N] [--kinds …] [--sets …]``.

Both sides hold the same rows, on the same disk, warm. Tasks alternate; figures are medians. Lance runs its best
settings found by a sweep for the same recall. Memory is the growth of a fresh process.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("LANCE_LOG", "error")  # read when the package loads

import lance

import lake_format as lake
from bench.data import CACHE, clustered, fashion_mnist, items, nearest
from bench.harness import Comparison, alternate, in_child, machine, show

K = 10
WANTED = 0.95
ROOT = CACHE / "bench"


def write_lake(uri: str, source: str, rows: int) -> None:
    """Stream a data set into a new lake table."""
    batches = _batches(source, rows)
    first = next(batches)
    lake.create(uri, first.schema).append(itertools.chain([first], batches))


def write_lance(uri: str, source: str, rows: int) -> None:
    """Stream a data set into a new Lance table."""
    batches = _batches(source, rows)
    first = next(batches)
    reader = pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))
    lance.write_dataset(reader, uri, mode="overwrite")


def index_lake(uri: str) -> None:
    """Build our index."""
    lake.open(uri).create_index("vec")


def index_lance(uri: str, options: dict[str, Any]) -> None:
    """Build one of Lance's indexes."""
    lance.dataset(uri).create_index("vec", metric="l2", replace=True, **options)


def search_lake(uri: str, queries: np.ndarray) -> int:
    """Run queries against our index, in a process whose memory is watched."""
    table = lake.open(uri)
    return sum(len(table.search(query, K)) for query in queries)


def _batches(source: str, rows: int) -> Iterator[pa.RecordBatch]:
    vectors = np.load(source, mmap_mode="r")[:rows]
    return items(vectors)


def lance_configurations(rows: int, dimension: int, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """Index settings worth trying; partitions as Lance's documentation advises (about √rows)."""
    partitions = max(16, int(rows**0.5))
    pq = {"index_type": "IVF_PQ", "num_partitions": partitions, "num_sub_vectors": dimension // 8}
    rq = {"index_type": "IVF_RQ", "num_partitions": partitions, "num_bits": 5}
    hnsw = {"index_type": "IVF_HNSW_SQ", "num_partitions": max(1, rows // 250_000)}
    known = {"IVF_RQ": rq, "IVF_PQ": pq, "IVF_HNSW_SQ": hnsw}
    return {kind: known[kind] for kind in kinds}


def best_lance(
    dataset: Any, kind: str, queries: np.ndarray, truth: np.ndarray
) -> tuple[dict[str, Any], float, float] | None:
    """The fastest search settings of the current index that reach the recall wanted, with recall and time."""
    best = None
    refines = [None, 2, 5, 10] if kind == "IVF_HNSW_SQ" else [2, 5, 10, 20]
    extra = [{"ef": ef} for ef in (30, 60, 120, 240)] if kind == "IVF_HNSW_SQ" else [{}]
    for refine, more in itertools.product(refines, extra):
        if more.get("ef", K * (refine or 1)) < K * (refine or 1):
            continue  # Lance refuses it
        for probes in (1, 2, 4, 8, 16, 32, 64, 128):
            nearest_options = {"nprobes": probes, **({"refine_factor": refine} if refine else {}), **more}
            recall, seconds = _measure_lance(dataset, nearest_options, queries[:60], truth)
            if recall >= WANTED:  # more probes only cost more
                if best is None or seconds < best[2]:
                    best = (nearest_options, recall, seconds)
                break
    return best


def _measure_lance(
    dataset: Any, options: dict[str, Any], queries: np.ndarray, truth: np.ndarray
) -> tuple[float, float]:
    hits, times = 0, []
    for query, true in zip(queries, truth, strict=False):
        start = time.perf_counter()
        found = lance_search(dataset, query, options)
        times.append(time.perf_counter() - start)
        hits += len(set(found.column("_rowid").to_pylist()) & set(true.tolist()))
    return hits / (K * len(queries)), float(np.median(times))


def lance_search(dataset: Any, query: np.ndarray, options: dict[str, Any], **more: Any) -> pa.Table:
    """One Lance search returning row ids and distances only."""
    request = {"column": "vec", "q": query, "k": K, **options}
    columns = more.pop("columns", [])
    return dataset.to_table(columns=columns, nearest=request, with_row_id=True, **more)


class Bench:
    """One data set held by both, and the tasks over it."""

    def __init__(self, name: str, vectors: np.ndarray, queries: np.ndarray, rows: int) -> None:
        self.name, self.queries, self.rows = name, queries, rows
        self.root = ROOT / name
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.source = str(self.root / "vectors.npy")
        np.save(self.source, vectors)
        self.truth = nearest(vectors, queries, K)
        self.dimension = vectors.shape[1]
        self.lake_uri, self.lance_uri = str(self.root / "lake"), str(self.root / "lance")

    def writes(self) -> None:
        """Append the whole set from a stream, in fresh processes."""
        ours = in_child(write_lake, self.lake_uri, self.source, self.rows)
        theirs = in_child(write_lance, self.lance_uri, self.source, self.rows)
        print(f"## {self.name}: append {self.rows:,} full rows from a stream (fresh process)")
        for who, run in (("lake", ours), ("lance", theirs)):
            size = sum(file.stat().st_size for file in Path(self.root / who).rglob("*") if file.is_file())
            print(
                f"  {who:<8} {run.seconds:7.2f} s   peak memory +{run.peak_anonymous / 2**20:.0f} MiB"
                f" anonymous, +{run.peak_resident / 2**20:.0f} MiB resident   {size / 2**20:.0f} MiB on disk"
            )

    def builds(self, kinds: list[str]) -> dict[str, Any]:
        """Build the indexes in fresh processes, then sweep Lance's search settings for the recall wanted."""
        ours = in_child(index_lake, self.lake_uri)
        print(f"## {self.name}: build index (fresh process)")
        print(_build_line("lake", ours))
        best: tuple[str, dict[str, Any], float] | None = None
        winner = None
        for kind, options in lance_configurations(self.rows, self.dimension, kinds).items():
            run = in_child(index_lance, self.lance_uri, options)
            print(_build_line(f"lance {kind}", run))
            dataset = lance.dataset(self.lance_uri)
            found = best_lance(dataset, kind, self.queries, self.truth)
            print(f"      best search at recall >= {WANTED}: {found}")
            if found and (winner is None or found[2] < winner[2]):
                winner, best = found, (kind, options, found[1])
        assert best is not None, "no Lance configuration reached the recall"
        assert winner is not None
        index_lance(self.lance_uri, best[1])
        print(f"  lance searches below use {best[0]} {winner[0]} (recall {winner[1]:.3f})")
        return winner[0]

    def warm(self) -> None:
        """Read every file of both sides once, so that neither waits for the disk in the tasks that follow."""
        for file in self.root.rglob("*"):
            if file.is_file():
                with open(file, "rb", buffering=0) as data:
                    while data.read(8 << 20):
                        pass

    def searches(self, options: dict[str, Any]) -> list[Comparison]:
        """Warm single-query searches: plain, filtered, with rows."""
        table, dataset = lake.open(self.lake_uri), lance.dataset(self.lance_uri)
        ids = ["_row_id", "_distance"]
        recall = _recall(table, self.queries, self.truth, ids)
        results = [
            self._search("search, ids and distances", table, dataset, options, ids, {}),
            self._search(
                "search, title and price of the rows",
                table,
                dataset,
                options,
                ["title", "price", "_distance"],
                {"columns": ["title", "price"]},
            ),
        ]
        for label, where in (("10 %", "price < 10"), ("1 %", "price < 1")):
            results.append(
                self._search(
                    f"search where {label} match",
                    table,
                    dataset,
                    options,
                    ids,
                    {"filter": where, "prefilter": True},
                    where,
                )
            )
        results[0].notes["lake"] = f"recall {recall:.3f}"
        batch = alternate(
            f"{self.name}: batch of {len(self.queries)} queries",
            {"lake": lambda: table.search(self.queries, K, select=ids)},
            rounds=5,
        )
        batch.notes["lake"] = f"{batch.median('lake') / len(self.queries) * 1e6:.0f} us a query"
        return [*results, batch]

    def _search(
        self,
        task: str,
        table: Any,
        dataset: Any,
        options: dict[str, Any],
        select: list[str],
        more: dict[str, Any],
        where: str | None = None,
    ) -> Comparison:
        ours, theirs = itertools.cycle(self.queries), itertools.cycle(self.queries)
        return alternate(
            f"{self.name}: {task}",
            {
                "lake": lambda: table.search(next(ours), K, select=select, where=where).to_arrow(),
                "lance": lambda: lance_search(dataset, next(theirs), options, **more),
            },
            rounds=100,
            warmups=20,
        )

    def reads(self) -> list[Comparison]:
        """Row access and scans."""
        table, dataset = lake.open(self.lake_uri), lance.dataset(self.lance_uri)
        random = np.random.default_rng(1)
        picks = [random.integers(0, self.rows, 1000) for _ in range(64)]
        ours, theirs = itertools.cycle(picks), itertools.cycle(picks)
        scalars = [name for name in table.schema.names if name != "vec"]

        def both(task: str, mine: Callable[[], Any], lances: Callable[[], Any], rounds: int) -> Comparison:
            return alternate(
                f"{self.name}: {task}", {"lake": mine, "lance": lances}, rounds=rounds, warmups=3
            )

        return [
            both(
                "take 1,000 vectors",
                lambda: table.take(next(ours), ["vec"]),
                lambda: dataset.take(next(theirs), ["vec"]),
                30,
            ),
            both(
                "take 1,000 full rows", lambda: table.take(next(ours)), lambda: dataset.take(next(theirs)), 30
            ),
            both(
                "scan vectors",
                lambda: _drain(table.scan(["vec"])),
                lambda: _drain(dataset.scanner(columns=["vec"]).to_reader()),
                7,
            ),
            both(
                "scan and sum vectors",
                lambda: _sum(table.scan(["vec"])),
                lambda: _sum(dataset.scanner(columns=["vec"]).to_reader()),
                7,
            ),
            both(
                "scan scalars",
                lambda: _drain(table.scan(scalars)),
                lambda: _drain(dataset.scanner(columns=scalars).to_reader()),
                7,
            ),
            both(
                "scan id and price",
                lambda: _drain(table.scan(["id", "price"])),
                lambda: _drain(dataset.scanner(columns=["id", "price"]).to_reader()),
                7,
            ),
            both(
                "filter 1 %, title and price",
                lambda: _drain(table.scan(["title", "price"], where="price < 1")),
                lambda: _drain(dataset.scanner(columns=["title", "price"], filter="price < 1").to_reader()),
                7,
            ),
        ]

    def memory_of_search(self) -> None:
        """Peak memory of opening the table and searching it in a fresh process."""
        run = in_child(search_lake, self.lake_uri, self.queries[:100])
        print(f"## {self.name}: open and search 100 times in a fresh process")
        print(
            f"  lake     peak memory +{run.peak_anonymous / 2**20:.0f} MiB anonymous,"
            f" +{run.peak_resident / 2**20:.0f} MiB resident (mapped pages included)"
        )


def _build_line(name: str, run: Any) -> str:
    return (
        f"  {name:<18} {run.seconds:7.2f} s   peak memory +{run.peak_anonymous / 2**20:.0f} MiB anonymous,"
        f" +{run.peak_resident / 2**20:.0f} MiB resident"
    )


def _recall(table: Any, queries: np.ndarray, truth: np.ndarray, ids: list[str]) -> float:
    hits = 0
    for query, true in zip(queries, truth, strict=True):
        found = table.search(query, K, select=ids).to_arrow().column("_row_id").to_pylist()
        hits += len(set(found) & set(true.tolist()))
    return hits / truth.size


def _drain(reader: pa.RecordBatchReader) -> int:
    return sum(batch.num_rows for batch in reader)


def _sum(reader: pa.RecordBatchReader) -> float:
    return sum(float(batch.column(0).flatten().to_numpy().sum()) for batch in reader)


def import_time() -> Comparison:
    """Whole interpreter starts: pyarrow alone, and with each package."""

    def start(code: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    return alternate(
        "start of an interpreter",
        {
            "lake": start("import pyarrow, lake_format"),
            "pyarrow alone": start("import pyarrow"),
            "lance": start("import pyarrow, lance"),
        },
        rounds=7,
    )


def main() -> None:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["IVF_RQ", "IVF_PQ"],
        choices=["IVF_RQ", "IVF_PQ", "IVF_HNSW_SQ"],
        help="Lance's index kinds to try; IVF_HNSW_SQ takes minutes to build",
    )
    parser.add_argument("--sets", nargs="+", default=["generated", "fashion-mnist"])
    arguments = parser.parse_args()
    print(f"# {time.strftime('%Y-%m-%d')}  {machine()}\n")
    print(show(import_time()))
    for name in arguments.sets:
        vectors, queries = clustered(arguments.rows) if name == "generated" else fashion_mnist()
        bench = Bench(name, vectors, queries[:200], len(vectors))
        del vectors
        bench.writes()
        options = bench.builds(arguments.kinds)
        bench.warm()
        for result in (*bench.searches(options), *bench.reads()):
            print(show(result))
        bench.memory_of_search()


if __name__ == "__main__":
    main()
