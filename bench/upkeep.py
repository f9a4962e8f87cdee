"""Upkeep against Lance: compaction (time and memory), and an index that catches up with appended rows.

``python -m bench.upkeep [rows]``; both sides on local disk, a fresh copy of the same table for every round.
Lance forces nothing to the disk; ``lake, no sync`` is ours without that: equal durability.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

import lake_format as lake
from bench.data import clustered
from bench.harness import Comparison, alternate, in_child, show
from lake_format.store.local import LocalStore

DIMENSION = 128
PARTS = 40
SEVERAL = 7
NAMES = ("lake", "lake, no sync", "lance")


def source_of(name: str) -> str:
    """The folder whose copies a contestant works on."""
    return name.split(",", maxsplit=1)[0]


def table_of(vectors: np.ndarray, first: int = 0) -> pa.Table:
    """Rows as both sides take them: an id, a text, a number and the vector."""
    ids = np.arange(first, first + len(vectors))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
    texts = pa.array([f"row {one} of the benchmark" for one in ids])
    return pa.table({"id": ids, "text": texts, "price": ids / 3.0, "v": column})


def make(folder: Path, rows: pa.Table) -> None:
    """The same rows in as many fragments on both sides, a tenth of them deleted."""
    step = rows.num_rows // PARTS
    ours = lake.create(str(folder / "lake"), rows.schema)
    for part in range(PARTS):
        piece = rows.slice(part * step, step)
        ours.append(piece)
        lance.write_dataset(piece, str(folder / "lance"), mode="append" if part else "create")
    ours.delete("id % 10 = 3")
    lance.dataset(str(folder / "lance")).delete("id % 10 = 3")


def compact_lake(path: str) -> None:
    """Ours."""
    lake.open(path).compact()


def compact_lake_unsynced(path: str) -> None:
    """Ours, nothing forced to the disk, as theirs is."""
    lake.open(path, store=LocalStore(path, sync=False)).compact()


def compact_lance(path: str) -> None:
    """Theirs."""
    lance.dataset(path).optimize.compact_files()


def compact_lake_into_several(path: str) -> None:
    """Ours, in groups that are written side by side."""
    table = lake.open(path)
    table.compact(table.count() // SEVERAL)


def compact_lake_unsynced_into_several(path: str) -> None:
    """The same with nothing forced to the disk."""
    table = lake.open(path, store=LocalStore(path, sync=False))
    table.compact(table.count() // SEVERAL)


def compact_lance_into_several(path: str) -> None:
    """Theirs, into as many."""
    dataset = lance.dataset(path)
    dataset.optimize.compact_files(target_rows_per_fragment=dataset.count_rows() // SEVERAL)


def on_copies(folder: Path, name: str, work: Callable[[str], Any]) -> Callable[[], Any]:
    """The work on a copy of its own each time; the copies are made before anything is measured."""
    for number in range(4):
        shutil.copytree(folder / source_of(name), folder / f"{name}-{number}")
    copies = iter([folder / f"{name}-{number}" for number in range(4)])
    os.sync()  # else whoever syncs first pays for the copies
    return lambda: work(str(next(copies)))


def compaction(folder: Path) -> None:
    """Time alternated, then memory in a process of its own: into one fragment, then into several."""
    several = (compact_lake_into_several, compact_lake_unsynced_into_several, compact_lance_into_several)
    for goal, works in (
        ("one", (compact_lake, compact_lake_unsynced, compact_lance)),
        (f"about {SEVERAL}", several),
    ):
        contestants = {name: on_copies(folder, name, work) for name, work in zip(NAMES, works, strict=True)}
        task = f"compact {PARTS} fragments, a tenth deleted, into {goal}"
        print(show(alternate(task, contestants, rounds=3)))
        for name, work in zip(NAMES, works, strict=True):
            ran = in_child(work, str(shutil.copytree(folder / source_of(name), folder / f"{name}-memory")))
            print(f"  {name:<28} {ran.peak_anonymous / 2**20:7.0f} MiB of memory at most, files apart")
            for copy in folder.glob(f"{name}-*"):
                shutil.rmtree(copy)


def catching_up(folder: Path, rows: pa.Table, queries: np.ndarray) -> None:
    """An index over most rows, ten appends, and then what it takes and how searches are after it."""
    most = rows.num_rows * 9 // 10
    ours = lake.create(str(folder / "lake-index"), rows.schema).append(rows.slice(0, most))
    ours.create_index("v")
    theirs = lance.write_dataset(rows.slice(0, most), str(folder / "lance-index"))
    theirs.create_index("v", "IVF_PQ", num_partitions=max(1, most // 1000), num_sub_vectors=DIMENSION // 8)
    step = (rows.num_rows - most) // 10
    for part in range(10):
        piece = rows.slice(most + part * step, step)
        ours.append(piece)
        theirs = lance.write_dataset(piece, str(folder / "lance-index"), mode="append")
    behind = searches(ours, queries)
    done = Comparison(f"cover {step * 10:,} appended rows", {"lake": [], "lance": []})
    for name, work in (("lake", ours.optimize_index), ("lance", theirs.optimize.optimize_indices)):
        done.seconds[name] += alternate(name, {name: work}, rounds=1, warmups=0).seconds[name]
    print(show(done))
    caught_up = searches(ours, queries)
    shards = len(ours.snapshot.version.indexes[0].shards)
    fresh = searches(ours.create_index("v"), queries)
    print("## search, k=10, recall .95 asked for: median time, recall reached")
    for name, (seconds, recall) in {
        "behind": behind,
        f"{shards} shards": caught_up,
        "fresh build": fresh,
    }.items():
        print(f"  {name:<28} {seconds * 1e3:7.2f} ms   {recall:.3f}")


def searches(table: lake.Table, queries: np.ndarray) -> tuple[float, float]:
    """Median seconds of a search, and mean recall."""
    hits = []
    for query in queries[:50]:
        found = table.search(query, 10, select=["id"]).to_arrow()["id"].to_pylist()
        true = table.search(query, 10, select=["id"], exact=True).to_arrow()["id"].to_pylist()
        hits.append(len(set(found) & set(true)) / 10)
    ours = iter(np.tile(queries, (20, 1)))
    timed = alternate("search", {"x": lambda: table.search(next(ours), 10, select=["id"])}, rounds=200)
    return timed.median("x"), float(np.mean(hits))


def main() -> None:
    """Run all of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    vectors, queries = clustered(count, DIMENSION)
    rows = table_of(vectors)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, rows)
        compaction(folder)
        catching_up(folder, rows, queries)


if __name__ == "__main__":
    main()
