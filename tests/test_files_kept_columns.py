"""Columns of Vortex files that are taken from again and again are kept decoded: the same rows, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lake_engines.files import FileReader, WrittenFile, open_reader, open_writer, vortex_can_hold
from lake_engines.files.column_cache import DECODED, LARGEST_COLUMN, Demand
from lake_format.errors import CorruptionError
from lake_format.store.local import LocalStore
from tests.samples import every_type
from tests.stores.faulty import FaultyStore

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what memory is whose")

TAKES = 200
"""More than the columns of these tests need until they are kept."""


def written(root: Path, table: pa.Table, name: str = "x") -> WrittenFile:
    path = f"data/{name}.vortex"
    writer = open_writer(LocalStore(root, sync=False), path, table.schema, format="vortex")
    for batch in table.to_batches():
        writer.write(batch)
    return writer.close()


def opened(root: Path, table: pa.Table, name: str = "x", **options: Any) -> FileReader:
    file = written(root, table, name)
    return open_reader(LocalStore(root), file, table.schema, **options)


def taken_often(reader: FileReader, names: list[str], places: list[int], takes: int = TAKES) -> None:
    for _ in range(takes):
        reader.take(np.array(places, np.uint64), names)


def kept(reader: FileReader) -> set[str]:
    return {name for name in reader.schema.names if DECODED.get(reader._owner, name) is not None}


def anonymous() -> int:
    """Bytes of this process that no file is behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) << 10


def test_every_type_gives_the_same_rows_before_and_after_it_is_kept(tmp_path: Path) -> None:
    whole = every_type(3_000)
    whole = whole.select([field.name for field in whole.schema if vortex_can_hold(field.type)])
    reader = opened(tmp_path, whole)
    chance = np.random.default_rng(5)
    for number in range(60):
        places = np.sort(chance.choice(3_000, 10, replace=False))
        names = chance.permutation(whole.schema.names).tolist()[: 1 + number % len(whole.schema.names)]
        found = reader.take(places.astype(np.uint64), names)
        expected = whole.select(names).combine_chunks().to_batches()[0]
        assert found.schema == reader.take(places[:0].astype(np.uint64), names).schema
        one_by_one = [expected.slice(int(at), 1).to_pylist()[0] for at in places]
        assert str(found.to_pylist()) == str(one_by_one)  # as text, in which NaN is NaN
    assert len(kept(reader)) > len(whole.schema.names) // 2


def test_a_column_is_kept_only_after_takes_that_cost_as_much_as_decoding_it() -> None:
    demand, taken = Demand(1_000_000), pa.record_batch({"a": pa.array(range(10))})
    takes = 0
    while not demand.wants("a"):
        demand.note(taken)
        takes += 1
    assert takes == -(-8_000_000 // (256 << 10))
    assert not demand.wants("a"), "counting starts again"
    for _ in range(2 * takes):
        demand.note(taken)
    demand.refuse("a")
    assert not demand.wants("a")
    large = Demand(LARGEST_COLUMN // 8 + 1)
    for _ in range(10_000):
        large.note(taken)
    assert not large.wants("a")


def test_a_few_takes_decode_no_column(tmp_path: Path) -> None:
    reader = opened(tmp_path, pa.table({"id": np.arange(100_000)}))
    taken_often(reader, ["id"], [5, 70_000], takes=2)
    assert kept(reader) == set()
    taken_often(reader, ["id"], [5, 70_000])
    assert kept(reader) == {"id"}


@on_linux
def test_a_column_that_is_larger_than_its_rows_looked_is_given_up_while_it_is_decoded(tmp_path: Path) -> None:
    chance = np.random.default_rng(3)
    long = [chance.bytes(2_000).hex() for _ in range(15_000)]
    texts = pa.table({"text": pa.array(["short"] * 50_000 + long)})
    reader = opened(tmp_path, texts)
    taken_often(reader, ["text"], [1, 2, 3], takes=1)
    before = anonymous()
    taken_often(reader, ["text"], [1, 2, 3])
    assert kept(reader) == set()
    assert anonymous() - before < 2 * LARGEST_COLUMN + (16 << 20) < 4_000 * 15_000
    assert reader.take(np.array([60_000], np.uint64)).column("text").to_pylist() == [long[10_000]]


FILES, ROWS = 8, 1_500_000
"""Decoded, 92 MiB; a column of each file is 12."""

TAKE_OFTEN = f"""
import sys
import numpy as np, pyarrow as pa
from pathlib import Path
from tests.test_files_kept_columns import *

root = Path(sys.argv[1])
readers = [opened(root, numbers(at), f"x{{at}}") for at in range({FILES})]
taken_often(readers[0], ["id"], [7], takes=1)
before = anonymous()
for at, reader in enumerate(readers):
    taken_often(reader, ["id"], [7, {ROWS - 1}])
    assert kept(reader) == {{"id"}}
    assert DECODED.held <= 64 << 20
assert kept(readers[0]) == set(), "the column used longest ago went first"
print(anonymous() - before)
"""


def numbers(seed: int) -> pa.Table:
    return pa.table({"id": np.random.default_rng(seed).integers(0, 1 << 62, ROWS)})


@on_linux
def test_all_files_together_keep_no_more_than_the_cache_may(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", TAKE_OFTEN, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    grown = int(run.stdout)
    assert grown < (64 + 24) << 20 < 8 * ROWS * FILES, f"{grown >> 20} MiB"


def test_what_is_fetched_or_checked_at_every_read_is_not_kept(tmp_path: Path) -> None:
    rows = pa.table({"id": np.random.default_rng(1).integers(0, 1 << 62, 50_000)})
    file = written(tmp_path, rows)
    fetched = open_reader(FaultyStore(LocalStore(tmp_path)), file, rows.schema)
    taken_often(fetched, ["id"], [9], takes=20)
    checked = open_reader(LocalStore(tmp_path), file, rows.schema, verify_reads=True)
    taken_often(checked, ["id"], [9], takes=20)
    assert kept(fetched) == kept(checked) == set()


def test_rows_beside_damaged_ones_can_be_taken_as_often_as_one_likes(tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    texts = [chance.bytes(20).hex() for _ in range(100_000)]
    rows = pa.table({"text": texts})
    file = written(tmp_path, rows)
    path = tmp_path / file.path
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) * 3 // 4] = chance.bytes(len(whole) * 3 // 4 - len(whole) // 2)
    path.write_bytes(whole)
    reader = open_reader(LocalStore(tmp_path), file, rows.schema)
    with pytest.raises(CorruptionError):
        list(reader.scan())
    taken_often(reader, ["text"], [9])
    assert reader.take(np.array([9], np.uint64)).column("text").to_pylist() == [texts[9]]
    assert kept(reader) == set()
