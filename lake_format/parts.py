"""What processes that work on one commit hand each other: which files were written, and at which version.

A few hundred bytes (and for an index the row ids it covers), checked when they are read. A part of a compaction also
names the fragments it replaces, and its fragments have the row ids of the rows they hold; those of an append count
from 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lake_format.checksum import crc32
from lake_format.codec import index_from_json, index_to_json
from lake_format.errors import CorruptionError
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.model import Fragment, IndexEntry, IndexShard, ManifestReference, NewFragment, Version
from lake_format.store.paths import check_object_path

__all__ = [
    "CompactionTask",
    "IndexPart",
    "Part",
    "decode_index_part",
    "decode_part",
    "decode_task",
    "encode_index_part",
    "encode_part",
    "encode_task",
    "unplaced",
]

_PART = b"LAKEPRT0"
_TASK = b"LAKETSK0"
_INDEX_TASK = b"LAKEITK0"
_INDEX_PART = b"LAKEIPT0"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPart:
    """Fragments of a version whose vectors one process is to encode, or has.

    Attributes
    ----------
    entry
        The index; with the shards that were written, once some were.
    model
        A shard of no row that has the index's model; None where its rows need none.
    shard
        Which of the index's shards the rows belong to, and how many there will be.
    share
        Which part of that shard this is, and of how many; of one where the shard is whole.
    left
        Files that are of no use once the shards are committed.
    """

    table_id: str
    version: int
    entry: IndexEntry
    model: IndexShard | None
    fragment_ids: tuple[int, ...]
    shard: tuple[int, int]
    share: tuple[int, int]
    left: tuple[str, ...] = ()

    @property
    def plan(self) -> tuple[str, int, str]:
        """What parts of one plan have in common."""
        return self.table_id, self.version, self.entry.index_id

    @property
    def files(self) -> list[str]:
        """The shards that were written."""
        return [shard.path for shard in self.entry.shards]


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


def encode_index_part(part: IndexPart, *, done: bool) -> bytes:
    """The bytes of what is to be done, or was."""
    models = () if part.model is None else (part.model,)
    head = {
        "table_id": part.table_id,
        "version": part.version,
        "index": index_to_json(part.entry),
        "model": index_to_json(replace(part.entry, shards=models, stale=None)),
        "fragments": list(part.fragment_ids),
        "shard": list(part.shard),
        "share": list(part.share),
        "left": list(part.left),
    }
    return _sealed(_INDEX_PART if done else _INDEX_TASK, head, b"")


def decode_index_part(data: bytes, *, done: bool) -> IndexPart:
    """Read and check such bytes; CorruptionError for anything else."""
    head, _ = _opened(_INDEX_PART if done else _INDEX_TASK, data, "a part" if done else "a task")
    try:
        models = index_from_json(head["model"]).shards
        shard, shards = head["shard"]
        number, count = head["share"]
        return IndexPart(
            table_id=head["table_id"],
            version=head["version"],
            entry=index_from_json(head["index"]),
            model=models[0] if models else None,
            fragment_ids=tuple(head["fragments"]),
            shard=(shard, shards),
            share=(number, count),
            left=tuple(check_object_path(path) for path in head["left"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"the part of an index is malformed: {error!r}") from error


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
    return magic + crc32(body).to_bytes(4, "little") + body


def _opened(magic: bytes, data: bytes, what: str) -> tuple[dict[str, Any], bytes]:
    body = data[12:]
    if data[:8] != magic or len(data) < 16 or crc32(body) != int.from_bytes(data[8:12], "little"):
        raise CorruptionError(f"{what} is truncated, altered, or no {what.split()[1]} of a table")
    length = int.from_bytes(body[:4], "little")
    try:
        head = json.loads(body[4 : 4 + length])
    except ValueError as error:
        raise CorruptionError(f"{what} is malformed: {error}") from error
    if not isinstance(head, dict):
        raise CorruptionError(f"{what} is malformed: it does not begin with an object")
    return head, body[4 + length :]
