"""The FastScan order of 4-bit codes: 32 vectors a block, so that one register holds one subquantiser's codes.

Layout after André, Kermarrec, Le Scouarnec, "Cache locality is not enough" (VLDB 2015) and faiss's
``pq4_pack_codes`` with blocks of 32. Pure numpy: packing needs no index object, and nothing is unpacked to
search.
"""

from __future__ import annotations

import numpy as np

from lake_engines.index.interface import U8

__all__ = ["BLOCK", "pack_codes", "packed_length", "unpack_codes"]

BLOCK = 32  # vectors per block

# Byte j of a half-block holds vector _ORDER[j] in its low and _ORDER[j] + 16 in its high four bits.
_ORDER = np.array([0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])


def packed_length(count: int, code_size: int) -> int:
    """Bytes that ``count`` codes of ``code_size`` bytes take once packed (whole blocks)."""
    return -(-count // BLOCK) * BLOCK * code_size


def pack_codes(codes: U8) -> U8:
    """Pack codes into blocks.

    Parameters
    ----------
    codes
        Shape ``(n, code_size)``; the code of subquantiser ``s`` is in byte ``s // 2``, low four bits
        if ``s`` is even.

    Returns
    -------
    U8
        Shape ``(packed_length(n, code_size),)``; vectors that fill up the last block have code 0.
    """
    count, code_size = codes.shape
    blocks = -(-count // BLOCK)
    if blocks * BLOCK != count:
        padded = np.zeros((blocks * BLOCK, code_size), np.uint8)
        padded[:count] = codes
        codes = padded
    columns = codes.reshape(blocks, BLOCK, code_size).transpose(0, 2, 1)
    low, high = columns[:, :, _ORDER], columns[:, :, _ORDER + 16]
    packed = np.empty((blocks, code_size, BLOCK), np.uint8)
    packed[:, :, :16] = (low & 15) | (high << 4)
    packed[:, :, 16:] = (low >> 4) | (high & 0xF0)
    return packed.reshape(-1)


def unpack_codes(packed: U8, count: int, code_size: int) -> U8:
    """Undo :func:`pack_codes`; shape ``(count, code_size)``."""
    blocks = packed.reshape(-1, code_size, BLOCK)
    even, odd = blocks[:, :, :16], blocks[:, :, 16:]
    columns = np.empty_like(blocks)
    columns[:, :, _ORDER] = (even & 15) | (odd << 4)
    columns[:, :, _ORDER + 16] = (even >> 4) | (odd & 0xF0)
    return np.ascontiguousarray(columns.transpose(0, 2, 1).reshape(-1, code_size)[:count])
