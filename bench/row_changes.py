"""Row changes against Lance, alternated: ``python -m bench.row_changes [--rows N] [--dimension D] [--rounds R]``.

Upsert by key, delete 1 % by a filter, update of a narrow column in scattered rows, merge, a constant column. Every
round takes other rows, so both tables age alike. Lance forces nothing to the disk; ours syncs every file and folder
before it claims a commit. ``lake, no sync`` is ours without that, on a third copy: equal durability.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("LANCE_LOG", "error")  # read when the package loads

import lance
import vortex  # noqa: F401 - as lance: loaded before memory is watched

import lake_engines.changes  # noqa: F401
import lake_format as lake
from bench.data import CACHE
from bench.harness import alternate, in_child, show
from lake_format.store.local import LocalStore

ROOT = CACHE / "bench-rows"
BATCH = 65_536


def rows_of(ids: np.ndarray, dimension: int, seed: int) -> pa.RecordBatch:
    """Rows with these ids; values follow from the ids and the seed."""
    random = np.random.default_rng(seed + int(ids[0]))
    count = len(ids)
    return pa.record_batch(
        {
            "id": pa.array(ids),
            "bucket": pa.array((ids * 7919 % 100).astype(np.int32)),
            "price": pa.array(random.uniform(0, 100, count)),
            "title": pa.array([f"title of item {number} {seed}" for number in ids.tolist()]),
            "vec": pa.FixedSizeListArray.from_arrays(
                pa.array(random.normal(size=count * dimension).astype(np.float32)), dimension
            ),
        }
    )


def batches(rows: int, dimension: int) -> Iterator[pa.RecordBatch]:
    """All rows, ids in random order, so that no statistics tell where a key is."""
    ids = np.random.default_rng(1).permutation(rows).astype(np.int64) * 3
    for start in range(0, rows, BATCH):
        yield rows_of(ids[start : start + BATCH], dimension, 0)


def made(rows: int, count: int, dimension: int, round_: int) -> pa.Table:
    """Rows to upsert: nine of ten have a key that is there."""
    random = np.random.default_rng(100 + round_)
    there = random.choice(rows, count * 9 // 10, replace=False) * 3
    fresh = random.choice(rows, count - len(there), replace=False) * 3 + 1 + round_ % 2
    ids = random.permutation(np.concatenate([there, fresh])).astype(np.int64)
    return pa.Table.from_batches([rows_of(ids, dimension, 1 + round_)])


class Round:
    """Numbers the calls, so that each gets rows of its own."""

    def __init__(self, run: Callable[[int], Any]) -> None:
        self._run = run
        self._number = 0

    def __call__(self) -> None:
        self._run(self._number)
        self._number += 1


def opened(name: str) -> Any:
    """One of the contestants' tables."""
    path = ROOT / name
    if name == "lance":
        return lance.dataset(str(path))
    return lake.open(str(path), store=LocalStore(path, sync=name == "lake"))


def build(rows: int, dimension: int) -> None:
    """Write the three copies."""
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    schema = rows_of(np.arange(1), dimension, 0).schema
    for name in ("lake", "lake, no sync"):
        store = LocalStore(ROOT / name, sync=name == "lake")
        lake.create(str(ROOT / name), schema, key="id", store=store).append(batches(rows, dimension))
    reader = pa.RecordBatchReader.from_batches(schema, batches(rows, dimension))
    lance.write_dataset(reader, str(ROOT / "lance"), mode="create")


@lru_cache(maxsize=32)
def changed(rows: int, count: int, dimension: int, round_: int) -> pa.Table:
    """The same, made once before anything is measured."""
    return made(rows, count, dimension, round_)


def upsert(name: str, rows: int, count: int, dimension: int, round_: int) -> None:
    """Upsert rows by key."""
    source = changed(rows, count, dimension, round_)
    if name == "lance":
        merge = opened(name).merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(source)
    else:
        opened(name).upsert(source)


def delete(name: str, round_: int) -> None:
    """Delete one percent of the rows, found by a column that nothing is sorted by."""
    opened(name).delete(f"bucket = {round_}")


def update(name: str, rows: int, round_: int) -> None:
    """Give one percent of the rows another price."""
    where = f"bucket = {50 + round_}"
    if name == "lance":
        opened(name).update({"price": "price + 1"}, where=where)
    else:
        opened(name).update({"price": lake.sql("price + 1")}, where=where)


def merge(name: str, rows: int, count: int, dimension: int, round_: int) -> None:
    """Update rows that are there where their price is low, insert the others."""
    source = changed(rows, count, dimension, 50 + round_)
    if name == "lance":
        plan = opened(name).merge_insert("id").when_matched_update_all("target.price < 50")
        plan.when_not_matched_insert_all().execute(source)
    else:
        plan = opened(name).merge(source).when_matched_update(condition="price < 50")
        plan.when_not_matched_insert().execute()


def add_constant(name: str, round_: int) -> None:
    """Add a column that is the same in all rows."""
    if name == "lance":
        opened(name).add_columns({f"constant{round_}": "7"})
    else:
        opened(name).add_column(f"constant{round_}", pa.int64(), 7)


NAMES = ("lake", "lake, no sync", "lance")


def main() -> None:
    """Run all tasks and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--changed", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bulk", action="store_true", help="also upsert as many rows as there are")
    given = parser.parse_args()
    rows, count, dimension = given.rows, given.changed, given.dimension
    build(rows, dimension)
    tasks: dict[str, Callable[[str], Callable[[int], None]]] = {
        f"upsert {count:,} rows by key": lambda name: partial(upsert, name, rows, count, dimension),
        "delete 1 % by filter": lambda name: partial(delete, name),
        "update a column of 1 % scattered rows": lambda name: partial(update, name, rows),
        f"merge {count:,} rows with a condition": lambda name: partial(merge, name, rows, count, dimension),
    }
    for round_ in range(given.rounds + 1):  # one is a warm-up
        changed(rows, count, dimension, round_)
        changed(rows, count, dimension, 50 + round_)
    for task, of in tasks.items():
        compare(f"{task}, {rows:,} x {dimension}", of, given.rounds)
    memory(f"upsert {count:,}", (rows, count, dimension, 90))
    if given.bulk:
        memory(f"upsert {rows:,}", (rows, rows, dimension, 91))
    # Last: Lance makes the column NOT NULL, and then takes no rows without it.
    compare(
        f"add a constant column, {rows:,} x {dimension}",
        lambda name: partial(add_constant, name),
        given.rounds,
    )
    shutil.rmtree(ROOT, ignore_errors=True)


def compare(task: str, of: Callable[[str], Callable[[int], None]], rounds: int) -> None:
    """Alternate a task between the contestants and print their times."""
    contestants = {name: Round(of(name)) for name in NAMES}
    print(show(alternate(task, contestants, rounds=rounds)), flush=True)


def memory(task: str, source: tuple[int, int, int, int]) -> None:
    """Print how much memory a fresh process takes to upsert rows that it has."""
    for name in ("lake", "lance"):
        found = in_child(upsert, name, *source, before=partial(changed, *source))
        resident, anonymous = found.peak_resident >> 20, found.peak_anonymous >> 20
        print(f"memory of {task}: {name:<6} +{resident} MiB resident, +{anonymous} MiB anonymous", flush=True)


if __name__ == "__main__":
    main()
