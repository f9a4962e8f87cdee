"""Telling whether Arrow values lie in a mapped file, by address."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ [1-9]\d* +(/\S.*\.(?:parquet|vortex))")


def lies_in_mapped_file(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether the last buffer (the values) of every chunk lies in a data file mapped into this process."""
    mappings = [
        (int(found[1], 16), int(found[2], 16))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if (found := _MAPPING.match(line))
    ]
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    addresses = [chunk.buffers()[-1].address for chunk in chunks if len(chunk)]
    return bool(addresses) and all(
        any(start <= address < end for start, end in mappings) for address in addresses
    )
