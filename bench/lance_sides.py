"""The same rows as a lake table and as Lance, with Lance's cheapest search settings: data of ``bench.lance_engines``.

Made on first use and kept between runs. Lance's settings are tuned for each filter, because a filter that leaves few
rows in a partition needs more partitions to reach the same recall.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import lance
import numpy as np
import pyarrow as pa

import lake_format as lake
from bench.core import index_lance, lance_configurations, write_lance
from bench.data import CACHE, clustered, items, nearest

K = 10
WANTED = 0.95
QUERIES = 200
GLANCE = 20
FILTERS = {
    "no filter": None,
    "10 % match": "price < 10",
    "1 % match": "price < 1",
    "LIKE": "title LIKE 're%'",
}
REFINES = {"IVF_FLAT": (None,), "IVF_PQ": (5, 10, 20), "IVF_RQ": (2, 5, 10)}
PROBES = (4, 8, 12, 16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 316)


class Sides:
    """Both tables, the queries, and for each filter the true neighbours and Lance's settings."""

    def __init__(self, rows: int) -> None:
        vectors, self.queries = clustered(rows)
        self.rows = rows
        self.root = CACHE / "bench" / f"lance-engines-{rows}"
        self.uri = str(self.root / "items")
        if not (self.root / "made").exists():
            self._make(vectors)
        self.truth = {label: self._nearest(vectors, where) for label, where in FILTERS.items()}
        settings = self.root / "settings.json"
        if not settings.exists():
            settings.write_text(json.dumps(self._tuned()), encoding="utf-8")
        self.settings: dict[str, dict[str, Any]] = json.loads(settings.read_text(encoding="utf-8"))

    def _make(self, vectors: np.ndarray) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        source = str(self.root / "vectors.npy")
        np.save(source, vectors)
        batches = items(vectors)
        first = next(batches)
        lake.create(self.uri, first.schema).append(itertools.chain([first], batches)).create_index("vec")
        configurations = lance_configurations(self.rows, vectors.shape[1], ["IVF_PQ", "IVF_RQ"])
        partitions = configurations["IVF_PQ"]["num_partitions"]
        configurations["IVF_FLAT"] = {"index_type": "IVF_FLAT", "num_partitions": partitions}
        for kind, options in configurations.items():
            write_lance(self.lance_uri(kind), source, self.rows)
            index_lance(self.lance_uri(kind), options)
        lance.dataset(self.lance_uri("IVF_RQ")).create_scalar_index("id", "BTREE")
        (self.root / "made").touch()

    def lance_uri(self, kind: str) -> str:
        """Where Lance's rows with that vector index are; those with IVF_RQ also have a BTREE index on id."""
        return str(self.root / f"{kind}.lance")

    def cycle(self) -> Iterator[list[float]]:
        """The queries, again and again."""
        return itertools.cycle([query.tolist() for query in self.queries])

    def recall(self, label: str, found: list[list[int]]) -> float:
        """Of the true neighbours of the first queries, the part that was found."""
        hits = sum(
            len(set(ids) & set(true.tolist())) for ids, true in zip(found, self.truth[label], strict=False)
        )
        return hits / (K * len(found))

    def _nearest(self, vectors: np.ndarray, where: str | None) -> np.ndarray:
        """True neighbours among the rows that match, as Lance's plain scan finds them."""
        table = lance.dataset(self.lance_uri("IVF_PQ")).to_table(columns=["id"], filter=where)
        ids = np.sort(table.column("id").to_numpy())
        return ids[nearest(vectors[ids], self.queries[:QUERIES], K)]

    def _tuned(self) -> dict[str, dict[str, Any]]:
        """The cheapest settings of each index kind that reach the recall, for each filter."""
        settings: dict[str, dict[str, Any]] = {}
        for label, kind in itertools.product(FILTERS, REFINES):
            dataset = lance.dataset(self.lance_uri(kind))
            reached = (self._cheapest(dataset, label, refine) for refine in REFINES[kind])
            found = [one for one in reached if one is not None]
            assert found, f"{kind} does not reach the recall, {label}"
            settings.setdefault(label, {})[kind] = min(found, key=lambda one: one["seconds"])
        return settings

    def _cheapest(self, dataset: Any, label: str, refine: int | None) -> dict[str, Any] | None:
        """The fewest probes that reach the recall; more only cost more."""
        for probes in PROBES:
            options = {"nprobes": probes, **({"refine_factor": refine} if refine else {})}
            if self._measure(dataset, label, options, GLANCE)["recall"] < WANTED - 0.05:
                continue  # a few queries show that it is far off
            measured = self._measure(dataset, label, options, QUERIES)
            if measured["recall"] >= WANTED:
                return measured
        return None

    def _measure(self, dataset: Any, label: str, options: dict[str, Any], count: int) -> dict[str, Any]:
        found, times = [], []
        for query in self.queries[:count]:
            request = {"column": "vec", "q": query, "k": K, **options}
            started = time.process_time()  # in CPU time: what else runs on the machine must not choose
            answer: pa.Table = dataset.to_table(
                columns=["id"], nearest=request, filter=FILTERS[label], prefilter=True
            )
            times.append(time.process_time() - started)
            found.append(answer.column("id").to_pylist())
        return {
            "options": options,
            "recall": self.recall(label, found),
            "seconds": float(np.median(times)),
        }
