"""The key hash of IDN-14, one key at a time: a reference for writers that hash whole columns."""

from __future__ import annotations

from collections.abc import Sequence

MASK = (1 << 64) - 1
SEED = 0x6C616B652D6B6579  # "lake-key"


def mix(word: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford, variant 13)."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & MASK
    return word ^ (word >> 31)


def encode(value: int | bool | str | bytes) -> bytes:
    """Canonical bytes of one key part: the same for every width of integer and every layout of text."""
    if isinstance(value, int):
        return value.to_bytes(8, "little", signed=value < 1 << 63)
    return value.encode("utf-8") if isinstance(value, str) else value


def key_hash(parts: Sequence[int | bool | str | bytes]) -> int:
    """The 64-bit hash of a key of one or more parts, none of them NULL."""
    state = SEED
    for part in parts:
        data = encode(part)
        for start in range(0, len(data), 8):
            state = mix(state ^ int.from_bytes(data[start : start + 8].ljust(8, b"\0"), "little"))
        state = mix(state ^ len(data))
    return state
