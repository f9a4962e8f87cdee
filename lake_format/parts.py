"""What processes that work on one commit hand each other: which files were written, and at which version.

A few hundred bytes, checked when they are read. A part of a compaction also names the fragments it replaces, and its
fragments have the row ids of the rows they hold; those of an append count from 0.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lake_format.errors import CorruptionError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.model import Fragment, ManifestReference, NewFragment, Version

__all__ = ["CompactionTask", "Part", "decode_part", "decode_task", "encode_part", "encode_task", "unplaced"]

_PART = b"LAKEPRT0"
_TASK = b"LAKETSK0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one process wrote.

    Attributes
    ----------
    table_id, version
        The table, and the version that was read.
    fragments
        With ids and row ids that are the part's own, or, where it replaces others, with the row ids they keep.
    features
        What a reader of the files must know.
    replaces
        Ids of the fragments that these are put in place of; None for rows to be appended.
    """

    table_id: str
    version: int
    fragments: tuple[Fragment, ...]
    features: frozenset[str]
    replaces: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """Rows written."""
        return sum(fragment.row_count for fragment in self.fragments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionTask:
    """Fragments of a version that one process is to write anew."""

    table_id: str
    version: int
    fragment_ids: tuple[int, ...]


def encode_part(
    version: Version,
    fragments: Sequence[Fragment],
    features: frozenset[str],
    replaces: Sequence[int] | None = None,
) -> bytes:
    """The bytes of a part of at least one fragment."""
    manifest = inline_manifest(fragments)
    assert manifest.body is not None
    head = {
        "table_id": version.table_id,
        "version": version.version,
        "features": sorted(features),
        "fragments": manifest.fragment_count,
        "rows": manifest.row_count,
        "size": manifest.size,
        "crc": manifest.crc,
    }
    if replaces is not None:
        head["replaces"] = list(replaces)
    return _sealed(_PART, head, manifest.body)


def decode_part(data: bytes) -> Part:
    """Read and check a part; CorruptionError for anything else."""
    head, body = _opened(_PART, data, "a part")
    try:
        reference = ManifestReference(
            path=None,
            size=head["size"],
            crc=head["crc"],
            fragment_count=head["fragments"],
            row_count=head["rows"],
            first_fragment_id=0,
            last_fragment_id=head["fragments"] - 1,
        )
        table = decode_manifest(body, reference)
        replaces = head.get("replaces")
        return Part(
            table_id=head["table_id"],
            version=head["version"],
            features=frozenset(head["features"]),
            fragments=tuple(FragmentTable([table]).fragments()),
            replaces=None if replaces is None else tuple(replaces),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"a part is malformed: {error}") from error


def encode_task(task: CompactionTask) -> bytes:
    """The bytes of a task."""
    head = {"table_id": task.table_id, "version": task.version, "fragments": list(task.fragment_ids)}
    return _sealed(_TASK, head, b"")


def decode_task(data: bytes) -> CompactionTask:
    """Read and check a task; CorruptionError for anything else."""
    head, _ = _opened(_TASK, data, "a task")
    try:
        return CompactionTask(
            table_id=head["table_id"], version=head["version"], fragment_ids=tuple(head["fragments"])
        )
    except (KeyError, TypeError) as error:
        raise CorruptionError(f"a task is malformed: {error}") from error


def unplaced(fragment: Fragment) -> NewFragment:
    """The fragment without ids: what was written."""
    return NewFragment(
        row_count=fragment.row_count,
        groups=fragment.groups,
        statistics=fragment.statistics,
        partition=fragment.partition,
        clustering=fragment.clustering,
    )


def _sealed(magic: bytes, head: dict[str, Any], rest: bytes) -> bytes:
    text = json.dumps(head).encode()
    body = len(text).to_bytes(4, "little") + text + rest
    return magic + zlib.crc32(body).to_bytes(4, "little") + body


def _opened(magic: bytes, data: bytes, what: str) -> tuple[dict[str, Any], bytes]:
    body = data[12:]
    if data[:8] != magic or len(data) < 16 or zlib.crc32(body) != int.from_bytes(data[8:12], "little"):
        raise CorruptionError(f"{what} is truncated, altered, or no {what.split()[1]} of a table")
    length = int.from_bytes(body[:4], "little")
    try:
        head = json.loads(body[4 : 4 + length])
    except ValueError as error:
        raise CorruptionError(f"{what} is malformed: {error}") from error
    if not isinstance(head, dict):
        raise CorruptionError(f"{what} is malformed: it does not begin with an object")
    return head, body[4 + length :]
