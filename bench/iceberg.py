"""Import by reference against pyiceberg's planning: ``python -m bench.iceberg [--files 10000]``.

An Iceberg table of many small files with ten columns and statistics, made once. Import reads its metadata and the
footer of each file, and commits; pyiceberg's ``plan_files`` reads its metadata. A refresh finds a hundred new files.
Bound: an import takes at most three times pyiceberg's planning.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.manifest import DataFile
from pyiceberg.table import StaticTable, Table

from bench.data import CACHE
from bench.harness import alternate, machine, show
from lake_connectors import iceberg

MORE = 100
"""Files that a refresh finds."""
ROWS = 100


def rows() -> pa.Table:
    """What every file holds."""
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {"id": np.arange(ROWS), "name": [f"name {number}" for number in range(ROWS)]}
    columns |= {f"x{number}": random.standard_normal(ROWS) for number in range(4)}
    columns |= {f"n{number}": random.integers(0, 1000, ROWS) for number in range(3)}
    columns["embedding"] = pa.array(
        list(random.standard_normal((ROWS, 8)).astype("f4")), pa.list_(pa.float32())
    )
    return pa.table(columns)


def made(files: int) -> tuple[str, str]:
    """Metadata files of the table with so many files, and with some more; kept between runs."""
    root = CACHE / "bench" / f"iceberg-{files}"
    done = root / "done"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        catalog = SqlCatalog("bench", uri=f"sqlite:///{root}/catalog.db", warehouse=f"file://{root}/files")
        catalog.create_namespace("shop")
        table = catalog.create_table("shop.items", rows().schema)
        table.append(rows())
        for start in range(1, files, 1000):
            add_copies(table, min(1000, files - start))
        early = table.metadata_location
        add_copies(table, MORE)
        done.write_text(f"{early}\n{table.metadata_location}")
    early, late = done.read_text().split()
    return early, late


def add_copies(table: Table, count: int) -> None:
    """Append copies of the first file, under names of their own, with its statistics."""
    manifest = table.current_snapshot().manifests(table.io)[-1]
    first = manifest.fetch_manifest_entry(table.io)[0].data_file
    source = Path(first.file_path.removeprefix("file://"))
    with table.transaction() as change, change.update_snapshot().fast_append() as append:
        for _ in range(count):
            number = next(_numbers)
            path = source.with_name(f"{number:08}-{source.name}")
            path.write_bytes(source.read_bytes())
            append.append_data_file(copied(first, f"file://{path}", number))


def copied(file: DataFile, path: str, number: int) -> DataFile:
    """The file under another name, with bounds that no other file has."""
    names = (
        *("content", "file_format", "partition", "record_count", "file_size_in_bytes", "column_sizes"),
        *("value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds"),
        *("split_offsets", "sort_order_id"),
    )
    values = {name: getattr(file, name) for name in names}
    for bounds in ("lower_bounds", "upper_bounds"):
        values[bounds] = {key: _moved(raw, number) for key, raw in dict(values[bounds]).items()}
    made = DataFile.from_args(file_path=path, **values)
    made.spec_id = file.spec_id
    return made


def _moved(raw: bytes, number: int) -> bytes:
    """Another bound of the same length, in the same order to its like: other low digits."""
    return number.to_bytes(4, "little")[:3] + raw[3:] if len(raw) == 8 else raw


_numbers = itertools.count()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    early, late = made(options.files)
    scratch = CACHE / "bench" / "iceberg-imported"
    shutil.rmtree(scratch, ignore_errors=True)
    numbers = itertools.count()

    def bring() -> str:
        uri = str(scratch / str(next(numbers)))
        iceberg.import_table(early, uri, storage_options={"sync": "false"})
        return uri

    def plan(metadata: str) -> int:
        return len(list(StaticTable.from_metadata(metadata).scan().plan_files()))

    print(f"{machine()}; {plan(early):,} files of {len(rows().schema)} columns")
    ways = {"lake": bring, "pyiceberg, planning only": lambda: plan(early)}
    print(show(alternate("import by reference", ways, rounds=options.rounds)))
    imported = [bring() for _ in range(options.rounds + 1)]
    ways = {
        "lake": lambda: iceberg.refresh_table(late, imported.pop()),
        "pyiceberg, planning only": lambda: plan(late),
    }
    print(show(alternate(f"refresh, {MORE} new files", ways, rounds=options.rounds)))
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
