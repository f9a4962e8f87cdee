"""An append of an unbounded reader takes bounded memory: what is streamed in never piles up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MEGABYTES_STREAMED = 200
MEGABYTES_ALLOWED = 120
PROGRAM = """
import sys
import numpy as np, psutil, pyarrow as pa
import lake_format as lake

uri, megabytes = sys.argv[1], int(sys.argv[2])
schema = pa.schema([("id", pa.int64()), ("note", pa.string()), ("v", pa.list_(pa.float32(), 128))])
process, peak = psutil.Process(), 0
rows = 8192

def batch(first):
    global peak
    peak = max(peak, process.memory_info().rss)
    numbers = np.random.default_rng(first).standard_normal(rows * 128, dtype=np.float32)
    ids = np.arange(first, first + rows)
    notes = pa.array([f"note {i:032d}" for i in ids])
    columns = [pa.array(ids), notes, pa.FixedSizeListArray.from_arrays(pa.array(numbers), 128)]
    return pa.record_batch(columns, schema=schema)

count = (megabytes << 20) // batch(0).nbytes + 1
table = lake.create(uri, schema, properties={"write.fragment-rows": 200_000})
table.append(batch(0))  # libraries load, pools warm up
before, peak = process.memory_info().rss, 0
streamed = 0
def batches():
    global streamed
    for number in range(1, count):
        made = batch(number * rows)
        streamed += made.nbytes
        yield made
table.append(pa.RecordBatchReader.from_batches(schema, batches()))
peak = max(peak, process.memory_info().rss)
assert table.count() == count * rows
print(streamed >> 20, (peak - before) >> 20)
"""


def test_memory_of_an_append_is_bounded(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path / "t"), str(MEGABYTES_STREAMED)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    streamed, grown = map(int, done.stdout.split())
    assert streamed >= MEGABYTES_STREAMED - 10
    assert grown < MEGABYTES_ALLOWED, f"{grown} MB more memory while {streamed} MB were streamed"
