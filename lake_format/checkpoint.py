"""What versions and history checkpoints remember of earlier versions: values, arithmetic and bytes, no storage.

Version *n* remembers the versions between the last multiple of 32 and itself. After each version whose number is
a multiple of 32, a *checkpoint* remembers all since the last multiple of 1,024, and where the checkpoints of
those multiples, the *milestones*, lie. All of it is derived: whatever is missing or does not fit is passed over,
and version objects tell the same (spec/identity.md, IDN-21).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from lake_format.errors import CorruptionError
from lake_format.model import CommitDetails, HistoryEntry, Version
from lake_format.packed_json import pack_json, unpack_json

__all__ = [
    "BLOCK",
    "STRIDE",
    "Checkpoint",
    "Milestone",
    "block_start",
    "decode_checkpoint",
    "encode_checkpoint",
    "entries_to_json",
    "entry_of",
    "is_whole",
    "recent_from_json",
    "recent_of_next",
    "remembered",
    "stride_start",
]

STRIDE = 32
"""Every so many versions there is a checkpoint."""
BLOCK = 1024
"""So many versions a checkpoint remembers at most."""
_MAGIC = b"LAKEHIS0"
_MOST_ENTRY_BYTES = 1024
_DETAILS = ("kinds", "row_count", "commit_id", "writer_id", "summary")


@dataclass(frozen=True, slots=True)
class Milestone:
    """A multiple of 1,024: its number, its time, and the size of its checkpoint in bytes."""

    version: int
    committed_at: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The history up to a version whose number is a multiple of 32.

    Attributes
    ----------
    entries
        The versions after the last smaller multiple of 1,024, up to the checkpoint's own, ascending.
    milestones
        All multiples of 1,024 before the checkpoint's version, ascending.
    size
        Bytes it takes where it is stored; 0 where that is not known.
    """

    table_id: str
    version: int
    entries: tuple[HistoryEntry, ...]
    milestones: tuple[Milestone, ...]
    size: int = 0


def stride_start(number: int) -> int:
    """The largest multiple of 32 below a version's number; 0 where there is none."""
    return (number - 1) // STRIDE * STRIDE


def block_start(number: int) -> int:
    """The largest multiple of 1,024 below a version's number; 0 where there is none."""
    return (number - 1) // BLOCK * BLOCK


def entry_of(version: Version) -> HistoryEntry:
    """A version's entry in the history, with all details."""
    details = CommitDetails(
        kinds=tuple(str(record.get("kind")) for record in version.operations),
        row_count=version.row_count,
        commit_id=version.commit_id,
        writer_id=version.writer_id,
        summary=version.summary,
    )
    return HistoryEntry(version=version.version, committed_at=version.committed_at, details=details)


def remembered(version: Version) -> HistoryEntry:
    """What others remember of a version: its entry, without details where these are long."""
    entry = entry_of(version)
    if len(json.dumps(_entry_to_json(entry), separators=(",", ":"))) <= _MOST_ENTRY_BYTES:
        return entry
    return replace(entry, details=None)


def is_whole(version: Version) -> bool:
    """Whether a version remembers all versions since the last multiple of 32."""
    return len(version.history) == version.version - 1 - stride_start(version.version)


def recent_of_next(parent: Version) -> tuple[HistoryEntry, ...]:
    """What the version after ``parent`` remembers; nothing where the parent does not tell all."""
    if parent.version % STRIDE == 0 or not is_whole(parent):
        return ()
    return (*parent.history, remembered(parent))


def entries_to_json(entries: Sequence[HistoryEntry]) -> list[dict[str, Any]]:
    """Entries as plain values."""
    return [_entry_to_json(entry) for entry in entries]


def recent_from_json(raw: object, number: int, committed_at: int) -> tuple[HistoryEntry, ...]:
    """The history in a version object; empty unless it is exactly what that version has to remember."""
    try:
        entries = _entries(raw)
        _check_run(entries, stride_start(number), number - 1)
    except (CorruptionError, LookupError, TypeError, ValueError):
        return ()
    return entries if not entries or entries[-1].committed_at < committed_at else ()


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The bytes of a checkpoint."""
    return pack_json(
        _MAGIC,
        {
            "table_id": checkpoint.table_id,
            "version": checkpoint.version,
            "entries": entries_to_json(checkpoint.entries),
            "milestones": [[one.version, one.committed_at, one.size] for one in checkpoint.milestones],
        },
    )


def decode_checkpoint(data: bytes, where: str) -> Checkpoint:
    """Read and check a checkpoint; CorruptionError or UnsupportedError naming ``where`` for anything else."""
    raw, rest = unpack_json(data, _MAGIC, where, "a history checkpoint")
    try:
        number, table_id = _natural(raw["version"]), raw["table_id"]
        entries = _entries(raw["entries"])
        milestones = tuple(Milestone(*map(_natural, one)) for one in raw["milestones"])
        start = block_start(number)
        _check_run(entries, start, number)
        if [one.version for one in milestones] != list(range(BLOCK, start + 1, BLOCK)):
            raise CorruptionError("it does not name all multiples of 1,024 before it")
        times = [*(one.committed_at for one in milestones), entries[0].committed_at]
        if rest or number % STRIDE or not isinstance(table_id, str) or not _ascending(times):
            raise CorruptionError("its parts do not fit together")
    except (CorruptionError, LookupError, TypeError, ValueError) as error:
        raise CorruptionError(f"{where} is not a history checkpoint: {error}") from error
    return Checkpoint(
        table_id=table_id, version=number, entries=entries, milestones=milestones, size=len(data)
    )


def _entry_to_json(entry: HistoryEntry) -> dict[str, Any]:
    known: dict[str, Any] = {"version": entry.version, "committed_at": entry.committed_at}
    if (details := entry.details) is not None:
        known |= {
            "kinds": list(details.kinds),
            "row_count": details.row_count,
            "commit_id": details.commit_id,
            "writer_id": details.writer_id,
            "summary": dict(details.summary),
        }
    return known


def _entries(raw: object) -> tuple[HistoryEntry, ...]:
    if not isinstance(raw, list):
        raise CorruptionError("a history is a list")
    return tuple(_entry(one) for one in raw)


def _entry(raw: Mapping[str, Any]) -> HistoryEntry:
    details = None
    if any(name in raw for name in _DETAILS):
        kinds, texts, summary = raw["kinds"], (raw["commit_id"], raw["writer_id"]), raw["summary"]
        if not isinstance(kinds, list) or not isinstance(summary, dict):
            raise CorruptionError("an entry of the history is malformed")
        if not all(isinstance(text, str) for text in (*kinds, *texts)):
            raise CorruptionError("an entry of the history is malformed")
        details = CommitDetails(
            kinds=tuple(kinds),
            row_count=_natural(raw["row_count"]),
            commit_id=texts[0],
            writer_id=texts[1],
            summary=summary,
        )
    return HistoryEntry(
        version=_natural(raw["version"]), committed_at=_natural(raw["committed_at"]), details=details
    )


def _natural(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise CorruptionError(f"{value!r} is not a whole number")
    return value


def _check_run(entries: Sequence[HistoryEntry], after: int, last: int) -> None:
    """The entries are the versions ``after + 1`` to ``last``, their times ascending."""
    if [entry.version for entry in entries] != list(range(after + 1, last + 1)):
        raise CorruptionError(f"the history does not hold the versions {after + 1} to {last}")
    if not _ascending([entry.committed_at for entry in entries]):
        raise CorruptionError("the times of the history do not ascend")


def _ascending(times: Sequence[int]) -> bool:
    return all(earlier < later for earlier, later in pairwise(times))
