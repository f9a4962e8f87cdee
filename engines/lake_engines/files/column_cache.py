"""Columns of small files, decoded and kept up to a number of bytes, so that single rows of them cost next to nothing.

It must not know any file format. Data files never change, so nothing in it goes stale.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import pyarrow as pa

__all__ = ["ColumnCache"]


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
