"""Checksums: those of the standard, and those of blocks put together without reading them."""

from __future__ import annotations

import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lake_format.checksum import crc32, joined_crc32


@given(st.binary(max_size=9000), st.integers(0, 2**32 - 1))
def test_it_is_the_checksum_of_the_specification(data: bytes, start: int) -> None:
    """spec: FIL-1"""
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data, start) == zlib.crc32(data, start)
    assert crc32(memoryview(data)[1:]) == zlib.crc32(data[1:])


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_blocks_are_put_together(blocks: int, length: int, seed: int) -> None:
    data = np.random.default_rng(seed).bytes(blocks * length)
    parts = [data[start : start + length] for start in range(0, len(data), length)]
    crcs = np.array([zlib.crc32(part) for part in parts], np.uint32)
    assert joined_crc32(crcs, length) == zlib.crc32(data)
    at = seed % blocks
    crcs[at] ^= np.uint32(1 << (seed % 32))
    assert joined_crc32(crcs, length) != zlib.crc32(data), "any bit counts"
