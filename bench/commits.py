"""What a commit costs as a table grows, against Lance: ``python -m bench.commits [--sizes 10,100,10000,100000]``.

Appends of 1,000 rows to tables of so many fragments: time, requests, bytes. Then what it costs to open and plan over
very many: a filter that prunes, row access, search. Our tables are made by the library's own codec
(tests/stores/many_fragments.py), Lance's of as many one-row files in one commit. Lance syncs nothing to disk, so
ours is measured with ``sync=false`` too, and with syncs beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

os.environ.setdefault("LANCE_LOG", "error")

import lance

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stores.many_fragments import multiply

import lake_format as lake
from bench.data import CACHE
from bench.harness import Comparison, alternate, in_child, show
from lake_format.store import open_store
from lake_format.store.metered import MeteredStore

ROOT = CACHE / "commits"
ROWS = 1000
DIMENSION = 32
APPENDS = 30
NO_SYNC = {"sync": "false"}
LANCE_LIMIT = 10_000


def rows(first: int, count: int = ROWS) -> pa.Table:
    """Rows with ids from ``first`` on."""
    random = np.random.default_rng(first)
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(random.random(count * DIMENSION, dtype="f4")), DIMENSION
    )
    ids = np.arange(first, first + count)
    return pa.table(
        {"id": ids, "title": [f"title {one}" for one in ids], "price": random.random(count), "vec": vectors}
    )


def lake_table(fragments: int, name: str = "lake") -> lake.Table:
    """A table of so many fragments of 1,000 rows."""
    path = ROOT / f"{name}-{fragments}"
    shutil.rmtree(path, ignore_errors=True)
    table = lake.create(str(path), rows(0).schema, storage_options=NO_SYNC)
    table.append(rows(0)).create_index("vec")
    return multiply(table, fragments)


def lance_table(fragments: int) -> Any:
    """A dataset of so many fragments, of one row each: what Lance writes at a commit does not depend on rows."""
    path = ROOT / f"lance-{fragments}"
    shutil.rmtree(path, ignore_errors=True)
    data = rows(0, fragments)
    made = lance.fragment.write_fragments(data, str(path), max_rows_per_file=1, max_rows_per_group=1)
    return lance.LanceDataset.commit(str(path), lance.LanceOperation.Overwrite(data.schema, made))


def appends(fragments: int) -> tuple[Comparison, MeteredStore]:
    """Appends to both, in turn."""
    path = lake_table(fragments).uri
    store = MeteredStore(open_store(path, NO_SYNC))
    table, durable = lake.open(path, store=store), lake.open(lake_table(fragments, "durable").uri)
    numbers = iter(range(10**9, 2 * 10**9, ROWS))
    contestants = {
        "lake": lambda: table.append(rows(next(numbers))),
        "lake, synced": lambda: durable.append(rows(next(numbers))),
    }
    if fragments <= LANCE_LIMIT:
        dataset = lance_table(fragments)
        contestants["lance"] = lambda: lance.write_dataset(rows(next(numbers)), dataset.uri, mode="append")
    store.reset()
    result = alternate(f"append 1,000 rows to {fragments:,} fragments", contestants, rounds=APPENDS)
    usage = store.usage()
    count = APPENDS + 1
    result.notes["lake"] = (
        f"{usage.total_requests / count:.1f} requests, {usage.bytes_written / count / 1000:.0f} kB written, "
        f"{usage.bytes_read / count / 1000:.0f} kB read"
    )
    if fragments <= LANCE_LIMIT:
        newest = max(
            (Path(dataset.uri) / "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime
        )
        result.notes["lance"] = f"{newest.stat().st_size / 1000:.0f} kB of manifest written"
    return result, store


def opening(path: str, fragments: int) -> list[str]:
    """Open a table and plan over it, in a process whose memory is watched."""
    store = MeteredStore(open_store(path, NO_SYNC))
    lake.open(path, store=store).count("id < 0")  # imports, warm files
    store.reset()
    lines = []

    def step(what: str, work: Any) -> Any:
        start = time.perf_counter()
        value = work()
        lines.append(f"  {what:<44} {(time.perf_counter() - start) * 1e3:8.1f} ms")
        return value

    table = step("open", lambda: lake.open(path, store=store))
    middle = fragments // 2 * ROWS
    step("filter that leaves one fragment", lambda: table.count(f"id between {middle} and {middle + 5}"))
    step("the same again", lambda: table.count(f"id between {middle + 1} and {middle + 6}"))
    step("take 3 rows", lambda: table.take([5, middle, fragments * ROWS - 1]))
    step("take 3 rows again", lambda: table.take([7, middle + 2, fragments * ROWS - 2]))
    usage = store.usage()
    lines.append(f"  {usage.total_requests} requests, {usage.bytes_read / 1e6:.1f} MB read so far")
    step("load all manifests", lambda: len(table.snapshot.fragments))
    usage = store.usage()
    lines.append(f"  {usage.total_requests} requests, {usage.bytes_read / 1e6:.1f} MB read in all")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10,100,10000,100000")
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    ROOT.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    print(f"load average {load:.1f}" + (": the machine was busy, times are upper bounds" if load > 1 else ""))
    medians = {}
    for size in sizes:
        result, _ = appends(size)
        medians[size] = result.median("lake")
        print(show(result), flush=True)
    for size in sizes[1:]:
        ratio = medians[size] / medians[sizes[0]]
        print(f"  an append to {size:,} fragments takes {ratio:.2f}x of one to {sizes[0]:,}")
    largest = sizes[-1]
    run = in_child(opening, str(ROOT / f"lake-{largest}"), largest)
    print(f"## open and plan over {largest:,} fragments (fresh process)")
    print("\n".join(run.value))
    print(f"  peak memory +{run.peak_anonymous / 2**20:.0f} MiB anonymous")
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    main()
