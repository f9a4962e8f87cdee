"""Pages of a mapped file are entered ahead only where they are in memory already, and rows stay the same."""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lake_engines.files.residency import populate_in_background, resident_share

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is resident")


def mapped(path: Path, size: int) -> mmap.mmap:
    path.write_bytes(bytes(range(256)) * (size // 256))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def mapped_pages(path: Path) -> int:
    """Resident kilobytes of this process's map of the file, from the kernel's own account."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1])


def test_a_resident_file_is_entered_whole(tmp_path: Path) -> None:
    size = 8 << 20
    pages = mapped(tmp_path / "data", size)
    assert resident_share(np.frombuffer(pages, np.uint8)) == 1.0
    assert mapped_pages(tmp_path / "data") < size >> 11
    populate_in_background(pages)
    deadline = time.monotonic() + 5
    while mapped_pages(tmp_path / "data") < size >> 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mapped_pages(tmp_path / "data") == size >> 10
    assert pages[255:258] == bytes([255, 0, 1])


def test_a_hole_is_not_taken_for_resident(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.truncate(8 << 20)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 8 << 20, access=mmap.ACCESS_READ)
    assert resident_share(np.frombuffer(pages, np.uint8)) < 0.5
