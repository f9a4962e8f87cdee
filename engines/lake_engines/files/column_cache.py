"""Decoded columns, kept up to a number of bytes for all files together, so that single rows cost next to nothing.

Columns of small files come in at their first use; those of large ones once they are taken from so often that decoding
them has paid for itself. It must not know any file format. Data files never change, so nothing in it goes stale.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import pyarrow as pa

from lake_engines.files.base import batch_bytes

__all__ = ["DECODED", "LARGEST_COLUMN", "ColumnCache", "Demand"]

LARGEST_COLUMN = 16 << 20
"""Bytes of a column of a large file, decoded, beyond which it is not kept."""
_BYTES_FOR_A_TAKE = 256 << 10
"""What can be decoded in the time that one take of a few rows costs: measured 0.5 MB and more of one
column taken alone, half of it where several are taken together."""


class ColumnCache:
    """Arrays by the reader they belong to and their name; what was used longest ago goes first.

    Parameters
    ----------
    limit
        Bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._arrays: OrderedDict[tuple[object, str], pa.Array] = OrderedDict()
        self._bytes = 0

    @property
    def held(self) -> int:
        """Bytes that are kept now."""
        return self._bytes

    def get(self, owner: object, name: str) -> pa.Array | None:
        """The array, if it is still there."""
        with self._lock:
            found = self._arrays.get((owner, name))
            if found is not None:
                self._arrays.move_to_end((owner, name))
            return found

    def put(self, owner: object, name: str, array: pa.Array) -> None:
        """Keep an array; one that is larger than everything that may be kept is not."""
        size = int(array.get_total_buffer_size())
        if size > self._limit:
            return
        with self._lock:
            if (owner, name) in self._arrays:
                return
            self._arrays[owner, name] = array
            self._bytes += size
            while self._bytes > self._limit:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= int(oldest.get_total_buffer_size())


DECODED = ColumnCache(64 << 20)
"""The one cache of the process: what it may hold is bounded however many files and tables are open."""


class Demand:
    """Tells which columns of one file to decode whole: those whose takes have cost as much as decoding them would.

    So the two together never cost more than twice what the better of them would have, whatever is asked for.

    Parameters
    ----------
    rows
        Rows of the file.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._refused: set[str] = set()

    def note(self, taken: pa.RecordBatch) -> None:
        """Count a take of these columns and how large their values are."""
        for name in taken.schema.names:
            takes, rows, size = self._seen.get(name, (0, 0, 0))
            more = batch_bytes(taken.select([name]))
            self._seen[name] = takes + 1, rows + taken.num_rows, size + more

    def wants(self, name: str) -> bool:
        """Whether to decode the column now; once told, the counting starts again."""
        takes, rows, size = self._seen.get(name, (0, 0, 0))
        if not rows or name in self._refused:
            return False
        expected = size * self._rows // rows
        if expected > min(LARGEST_COLUMN, takes * _BYTES_FOR_A_TAKE):
            return False
        del self._seen[name]
        return True

    def refuse(self, name: str) -> None:
        """Never want a column again: it turned out to be too large."""
        self._refused.add(name)
