"""A split-block Bloom filter with the layout of Parquet's, over key hashes instead of XXH64.

A block has 256 bits, 8 words of 32; a hash sets one bit in each word of one block. The block is chosen by the upper
half of the hash, so hashes in ascending order touch blocks in ascending order (spec/keys.md, KEY-6).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lake_format.row_ids import U64

__all__ = ["BLOCK_BYTES", "block_count", "build_filter", "may_contain"]

BLOCK_BYTES = 32
_BITS_PER_KEY = 12
_SALT = np.array(
    [0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31],
    np.uint32,
)
_STEP = 65_536

U32 = npt.NDArray[np.uint32]


def block_count(keys: int) -> int:
    """How many blocks a filter of so many keys has: about 1 in 250 other keys passes it."""
    return max(1, -(-keys * _BITS_PER_KEY // (BLOCK_BYTES * 8)))


def build_filter(ascending: U64, blocks: int, into: U32) -> None:
    """Set the bits of hashes, which ascend, in a filter of shape ``(blocks, 8)``."""
    for start in range(0, len(ascending), _STEP):
        part = ascending[start : start + _STEP]
        block = _blocks(part, blocks)
        starts = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
        into[block[starts]] |= np.bitwise_or.reduceat(_bits(part), starts, axis=0)


def may_contain(words: U32, hashes: U64) -> npt.NDArray[np.bool_]:
    """For each hash, whether it may be one of the filter's; shape ``(n,)``."""
    bits = _bits(hashes)
    return np.asarray(((words[_blocks(hashes, len(words))] & bits) == bits).all(axis=1))


def _blocks(hashes: U64, blocks: int) -> npt.NDArray[np.int64]:
    return (((hashes >> np.uint64(32)) * np.uint64(blocks)) >> np.uint64(32)).astype(np.int64)


def _bits(hashes: U64) -> U32:
    low = (hashes & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    return np.asarray(np.left_shift(np.uint32(1), (low[:, None] * _SALT) >> np.uint32(27)), np.uint32)
