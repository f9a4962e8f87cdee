"""Data file formats side by side: ours, Lance and stock choices, locally and as requests and bytes over a network.

Run ``python bench/files_formats.py --rows 1000000``. Times are medians of alternated runs; writes run in a
process of their own each, so that peak memory is theirs. Network figures are counted, not timed: they do not
depend on the machine. ``spec/decisions/0001-scalar-format.md`` draws the conclusions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from lake_engines.files import FileReader, WrittenFile, open_reader, open_writer
from lake_format.store.local import LocalStore

DIM = 128
ROUNDS = 9
BATCH = 50_000
# fmt: off
WORDS = [
    "river", "stone", "cloud", "lamp", "green", "metal", "paper", "horse", "window", "garden",
    "silver", "quiet", "market", "engine", "bottle", "mirror", "forest", "signal", "copper", "velvet",
    "harbor", "candle", "thunder", "meadow", "puzzle", "ribbon", "anchor", "saddle", "orchid", "falcon",
]
# fmt: on
SCALARS = ["id", "uid", "title", "category", "ts", "price", "text"]


def phrases(rng: np.random.Generator, rows: int, length: int) -> np.ndarray:
    picks = np.array(WORDS)[rng.integers(0, len(WORDS), (rows, length))]
    return np.apply_along_axis(" ".join, 1, picks)


def batch_at(first: int, rows: int) -> pa.RecordBatch:
    """Rows ``[first, first + rows)`` of the benchmark table: title ~40 characters, text ~300, clustered vectors."""
    rng = np.random.default_rng(first)
    centres = np.random.default_rng(0).standard_normal((1000, DIM), np.float32)
    spread = (1 / np.arange(1, DIM + 1) ** 0.5).astype(np.float32)
    vectors = centres[rng.integers(0, 1000, rows)] + rng.standard_normal((rows, DIM), np.float32) * spread
    moments = (
        1_700_000_000_000_000 + np.arange(first, first + rows) * 1_000_000 + rng.integers(0, 900_000, rows)
    )
    return pa.record_batch(
        {
            "id": np.arange(first, first + rows),
            "uid": rng.integers(0, 1 << 62, rows),
            "title": phrases(rng, rows, 6),
            "category": np.char.add("category/", rng.integers(0, 50, rows).astype("U2")),
            "ts": pa.array(moments).cast(pa.timestamp("us", "UTC")),
            "price": np.round(rng.gamma(2, 30, rows), 2),
            "text": phrases(rng, rows, 44),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIM),
        }
    )


def make_source(path: Path, rows: int) -> None:
    schema = batch_at(0, 1).schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for first in range(0, rows, BATCH):
            writer.write(batch_at(first, min(BATCH, rows - first)))


def source_batches(path: Path, columns: list[str]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    reader = pa.ipc.open_file(pa.OSFile(str(path)))
    schema = pa.schema([reader.schema.field(name) for name in columns])
    return schema, (reader.get_batch(index).select(columns) for index in range(reader.num_record_batches))


# -- writing, one process per format ------------------------------------------------------------------------


def write_files(folder: Path, name: str) -> dict[str, object]:
    """Write one layout of the table and say how long it took and what memory it needed beyond the start."""
    groups, form, page_rows, file_rows = LAYOUTS[name]
    source = folder / "source.arrow"
    _, warm = source_batches(source, ["id"])
    next(warm)
    import vortex  # noqa: F401 - not to count its import

    before = peak_kilobytes()
    began = time.perf_counter()
    files = []
    for number, columns in enumerate(groups):
        schema, batches = source_batches(source, columns)
        if form == "lance":
            import lance

            shutil.rmtree(folder / name, ignore_errors=True)
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            lance.write_dataset(reader, str(folder / name), mode="overwrite")
            continue
        files.append(write_group(folder, f"{name}-{number}", schema, batches, form, page_rows, file_rows))
    seconds = time.perf_counter() - began
    peak = (peak_kilobytes() - before) / 1024
    return {"seconds": seconds, "peak_mb": peak, "files": files}


def peak_kilobytes() -> int:
    """Highest resident size of this process; unlike ``ru_maxrss`` it does not start at the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def write_group(folder, name, schema, batches, form, page_rows, file_rows) -> list[dict[str, object]]:
    store = LocalStore(folder, sync=False)
    files: list[WrittenFile] = []
    writer, rows = None, 0
    for batch in batches:
        while batch.num_rows:
            if writer is None:
                store.delete(f"{name}-{len(files)}")  # of an earlier run in the same folder
            writer = writer or open_writer(
                store, f"{name}-{len(files)}", schema, format=form, page_rows=page_rows
            )
            part = batch.slice(0, (file_rows or 1 << 60) - rows)
            batch = batch.slice(part.num_rows)  # noqa: PLW2901
            writer.write(part)
            rows += part.num_rows
            if rows == file_rows:
                files.append(writer.close())
                writer, rows = None, 0
    if writer is not None:
        files.append(writer.close())
    return [
        {
            **{key: getattr(file, key) for key in ("path", "format", "rows", "size")},
            "layout": file.layout.hex(),
        }
        for file in files
    ]


LAYOUTS: dict[str, tuple[list[list[str]], str, int | None, int | None]] = {
    "vortex": ([SCALARS], "vortex", None, None),
    "vortex, text apart": ([SCALARS[:-1], ["text"]], "vortex", None, None),
    "vortex, 64k-row files": ([SCALARS], "vortex", None, 65_536),
    "parquet, 512-row pages": ([SCALARS], "parquet", 512, None),
    "parquet, 1k-row pages": ([SCALARS], "parquet", 1024, None),
    "parquet, 4k-row pages": ([SCALARS], "parquet", 4096, None),
    "lance": ([SCALARS], "lance", None, None),
    "vectors: ours": ([["vec"]], "parquet", None, None),
    "vectors: lance": ([["vec"]], "lance", None, None),
}


# -- reading ------------------------------------------------------------------------------------------------


class CountingStore:
    """A local store that looks remote: no memory maps, every request and byte counted."""

    def __init__(self, inner: LocalStore) -> None:
        self.inner = inner
        self.requests = self.bytes = 0

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def local_path(self, path: str) -> None:
        return None

    def get_ranges(self, ranges):
        self.requests += len(ranges)
        self.bytes += sum(part.length for part in ranges)
        return self.inner.get_ranges(ranges)


class Reader:
    """All files of one written layout, behind the calls that are measured."""

    def __init__(self, store, groups: list[list[dict]], schemas: list[pa.Schema]) -> None:
        self.groups = [
            [
                open_reader(store, WrittenFile(**{**file, "layout": bytes.fromhex(file["layout"])}), schema)
                for file in files
            ]
            for files, schema in zip(groups, schemas, strict=True)
        ]

    def scan(self, columns: list[str]) -> int:
        return sum(
            batch.num_rows for group in self.groups for reader in group for batch in scan_one(reader, columns)
        )

    def take(self, places: np.ndarray, columns: list[str] | None = None) -> None:
        for group in self.groups:
            first = 0
            for reader in group:
                inside = places[(places >= first) & (places < first + reader.rows)] - first
                wanted = (
                    None if columns is None else [name for name in columns if name in reader.schema.names]
                )
                if len(inside) and wanted != []:
                    reader.take(inside.astype(np.uint64), wanted)
                first += reader.rows


def scan_one(reader: FileReader, columns: list[str]) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in columns if name in reader.schema.names]
    return reader.scan(wanted) if wanted else iter(())


def local_jobs(folder: Path, name: str, written: dict, rows: int) -> dict[str, Callable[[], object]]:
    """What is measured on one layout, by name."""
    groups = LAYOUTS[name][0]
    rng = np.random.default_rng(1)
    columns = [column for group in groups for column in group]
    if LAYOUTS[name][1] == "lance":
        import lance

        data = lance.dataset(str(folder / name))
        scan = lambda chosen: sum(batch.num_rows for batch in data.to_batches(columns=chosen))  # noqa: E731
        take = data.take
    else:
        schemas = [source_batches(folder / "source.arrow", group)[0] for group in groups]
        reader = Reader(LocalStore(folder, sync=False), written["files"], schemas)
        scan, take = reader.scan, reader.take
    jobs: dict[str, Callable[[], object]] = {"scan all": partial(scan, columns)}
    if "price" in columns:
        jobs["scan id, price"] = partial(scan, ["id", "price"])
    for count in (10, 100, 1000):
        places = random_places(rng, rows, count)
        jobs[f"take {count}"] = lambda places=places, take=take: take(next(places))
    return jobs


def random_places(rng: np.random.Generator, rows: int, count: int) -> Iterator[np.ndarray]:
    """Other rows each time: the same ones would be in the processor's caches."""
    while True:
        yield np.sort(rng.choice(rows, count, replace=False))


def local_figures(jobs: dict[str, dict[str, Callable[[], object]]]) -> dict[str, dict[str, str]]:
    """Median and best of alternated runs, in milliseconds: every layout is measured in every round."""
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS + 1):
        for name, of_layout in jobs.items():
            for label, job in of_layout.items():
                began = time.perf_counter()
                job()
                times.setdefault((name, label), []).append((time.perf_counter() - began) * 1000)
    figures: dict[str, dict[str, str]] = {}
    for (name, label), found in times.items():
        warm = found[1:]
        figures.setdefault(name, {})[label] = f"{statistics.median(warm):.2f} ({min(warm):.2f})"
    return figures


def remote_figures(folder: Path, name: str, written: dict, rows: int) -> dict[str, str]:
    groups = LAYOUTS[name][0]
    schemas = [source_batches(folder / "source.arrow", group)[0] for group in groups]
    found = {}
    columns = [column for group in groups for column in group]
    short = [column for column in columns if column != "text"]
    for label, count, chosen in (
        ("take 10", 10, columns),
        ("take 100", 100, columns),
        ("take 10, no text", 10, short),
    ):
        opened, taken = [], []
        for seed in range(3):
            store = CountingStore(LocalStore(folder, sync=False))
            reader = Reader(store, written["files"], schemas)
            opened.append((store.requests, store.bytes))
            store.requests = store.bytes = 0
            reader.take(np.sort(np.random.default_rng(seed).choice(rows, count, replace=False)), chosen)
            taken.append((store.requests, store.bytes))
        found["open"] = show_remote(opened)
        found[label] = show_remote(taken)
    return found


def show_remote(samples: list[tuple[int, int]]) -> str:
    requests, size = (statistics.median(sample[part] for sample in samples) for part in (0, 1))
    return f"{requests:.0f} / {size / 1e6:.2f} MB"


def print_table(title: str, rows: dict[str, dict[str, object]]) -> None:
    heads = list(dict.fromkeys(key for row in rows.values() for key in row))
    print(f"\n{title}\n\n| | {' | '.join(heads)} |\n|---{'|---:' * len(heads)}|")
    for name, row in rows.items():
        cells = [
            f"{value:.2f}" if isinstance(value := row.get(head, "–"), float) else str(value) for head in heads
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, help="where files go; a temporary folder by default, removed at the end"
    )
    parser.add_argument("--only", nargs="*", choices=list(LAYOUTS), help="layouts to run")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        print(json.dumps(write_files(options.folder, options.write)))
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="lake-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run(folder, options.rows, options.only or list(LAYOUTS))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def run(folder: Path, rows: int, names: list[str]) -> None:
    if not (folder / "source.arrow").exists():
        print(f"making {rows} rows …", file=sys.stderr)
        make_source(folder / "source.arrow", rows)
    written, writes = {}, {}
    for name in names:
        command = [sys.executable, __file__, "--folder", str(folder), "--write", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        written[name] = json.loads(done.stdout.splitlines()[-1])
        size = sum(file["size"] for group in written[name]["files"] for file in group) or folder_size(
            folder / name
        )
        writes[name] = {
            "seconds": written[name]["seconds"], "peak MB": written[name]["peak_mb"], "size MB": size / 1e6
        }  # fmt: skip
        print(name, writes[name], file=sys.stderr)
    print_table(f"Write, {rows} rows", writes)
    jobs = {name: local_jobs(folder, name, written[name], rows) for name in names}
    print_table("Local, warm, milliseconds: median (best)", local_figures(jobs))
    ours = [name for name in names if LAYOUTS[name][1] != "lance"]
    remote = {name: remote_figures(folder, name, written[name], rows) for name in ours}
    print_table("Remote: requests / bytes", remote)


def folder_size(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
