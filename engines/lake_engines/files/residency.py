"""Page tables for a mapped file whose pages are in memory already, filled in one go.

A first touch of a mapped page costs a fault even when the page is in the page cache: about a microsecond, several
in a virtual machine, which is more than reading the row. For a file that is taken from again and again and lies in
memory, the kernel can enter all its pages at once (``MADV_POPULATE_READ``: 17 ms for 512 MB, measured). Only ever an
optimisation: nothing happens where the file is not resident, or on systems without these calls.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from threading import Thread
from typing import Any

import numpy as np

__all__ = ["populate_in_background", "resident_share"]

_POPULATE_READ = 22  # Linux 5.14; not in Python's mmap module
_RESIDENT = 0.98
"""Below this share of resident pages, populating would read the disk."""


def populate_in_background(mapped: mmap.mmap) -> None:
    """Enter the pages of a fully resident file into the page table, from a thread of its own."""
    if sys.platform == "linux":
        Thread(target=_populate, args=(mapped,), name="lake-populate", daemon=True).start()


def _populate(mapped: mmap.mmap) -> None:
    pages = np.frombuffer(mapped, np.uint8)  # keeps the map open while the kernel works on it
    if resident_share(pages) >= _RESIDENT:
        _libc().madvise(ctypes.c_void_p(pages.ctypes.data), ctypes.c_size_t(pages.nbytes), _POPULATE_READ)


def resident_share(mapped: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """The share of a mapped file's pages that are in memory; 0 where the system does not tell."""
    count = -(-mapped.nbytes // mmap.PAGESIZE)
    held = np.zeros(count, np.uint8)
    start, length = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.nbytes)
    if _libc().mincore(start, length, ctypes.c_void_p(held.ctypes.data)):
        return 0.0
    return float(np.count_nonzero(held & 1) / count)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
