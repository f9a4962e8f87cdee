"""A reader of the key index written from `spec/keys.md` alone, as :mod:`independent_reader` is for rows.

>>> rows, unanswered = candidates(Path("tests/golden/v0/key-index"), key_hash([17]))
"""

from __future__ import annotations

import base64
import struct
import zlib
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any

from independent_bytes import row_id_set
from independent_reader import latest, object_path, require, unpack, version_path

SALT = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31)


def candidates(root: Path, wanted: int) -> tuple[set[int], set[int]]:
    """Row ids that may have a key with this hash, and those the index says are stale (KEY-1 to KEY-3)."""
    description, _ = unpack(version_path(root, latest(root)).read_bytes())
    require("key-index" in description["required_features"], "an index without its feature")
    index = description["key_index"]
    key = [int(part) for part in description["properties"]["key"].split(",")]
    require(index["fields"] == key, "an index of another key")
    stale = set(row_id_set(index["stale"]))
    found: set[int] = set()
    for run in index["runs"]:
        rows = row_id_set(run["rows"])
        require(rows == sorted(set(rows)), "rows of a run out of order")
        found |= {rows[ordinal] for ordinal in _ordinals(root, run, len(rows), wanted)}
    return found, stale


def _ordinals(root: Path, run: dict[str, Any], rows: int, wanted: int) -> list[int]:
    if "hashes" in run:
        hashes = struct.unpack(f"<{rows}Q", base64.b64decode(run["hashes"], validate=True))
        return [ordinal for ordinal, value in enumerate(hashes) if value == wanted]
    data = object_path({"": root}, run["path"]).read_bytes()
    require(len(data) == run["size"] and data[:4] == b"PFA1" == data[-4:], "not the run's file")
    head = data[run["head_offset"] : run["head_offset"] + run["head_length"]]
    require(zlib.crc32(head) == run["head_crc"], "head altered")
    per_page, blocks, entries, counted, filter_crc = struct.unpack_from("<IIQQI", head)
    pages = -(-entries // per_page)
    require(
        entries == run["entries"] and counted == rows and len(head) == 28 + 12 * pages, "head does not fit"
    )
    fences = struct.unpack_from(f"<{pages}Q", head, 28)
    crcs = struct.unpack_from(f"<{pages}I", head, 28 + 8 * pages)
    bits = data[4 + 12 * per_page * pages : run["head_offset"]]
    require(
        zlib.crc32(bits) == filter_crc and len(bits) == run["filter_length"] == 32 * blocks, "filter altered"
    )
    result = []
    for page in range(max(bisect_left(fences, wanted) - 1, 0), bisect_right(fences, wanted)):
        body = data[4 + 12 * per_page * page : 4 + 12 * per_page * (page + 1)]
        require(zlib.crc32(body) == crcs[page], "page altered")
        hashes = struct.unpack_from(f"<{per_page}Q", body)
        ordinals = struct.unpack_from(f"<{per_page}I", body, 8 * per_page)
        require(list(hashes) == sorted(hashes) and hashes[0] == fences[page], "page out of order")
        result += [o for h, o in zip(hashes, ordinals, strict=True) if h == wanted and o != 0xFFFFFFFF]
    require(all(ordinal < rows for ordinal in result), "an ordinal of no row")
    require(not result or _passes(bits, blocks, wanted), "the filter keeps an entry out")
    return result


def _passes(bits: bytes, blocks: int, value: int) -> bool:
    words = struct.unpack_from("<8I", bits, 32 * ((value >> 32) * blocks >> 32))
    return all(
        word >> ((value & 0xFFFFFFFF) * salt % 2**32 >> 27) & 1
        for word, salt in zip(words, SALT, strict=True)
    )
