"""What an operation did, in as few words as a later committer needs to judge whether it stands in the way.

Every version object stores the records of its commit; :mod:`lake_format.conflicts` compares them. Values and
their plain JSON form only: no storage, no judgement (spec/identity.md, CON-2 to CON-4).
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from sys import byteorder
from typing import TYPE_CHECKING, Any

from lake_format.errors import CorruptionError
from lake_format.lines import LINE_IDS, line_of
from lake_format.row_runs import RowRuns

if TYPE_CHECKING:
    from lake_format.model import Version

__all__ = ["OperationRecord"]

_FIELD_SETS = ("fields_read", "fields_written", "fields_required")
_FRAGMENT_SETS = ("fragments_masked", "fragments_rewritten", "fragments_removed")
_ROW_SETS = ("rows_deleted", "rows_updated")
_NONE = RowRuns()


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """What one operation of a commit read and did. It may say too much, never too little.

    Attributes
    ----------
    kind
        One of the kinds of the conflict matrix.
    fields_read
        Field ids whose values decided what was written: in predicates, expressions, join conditions; for an
        index, the indexed field.
    fields_written
        Field ids whose values were changed in existing rows, or which were dropped, renamed or altered.
    fields_required
        Field ids for which this operation made a rule that every later write must meet: NOT NULL, a key, a
        computed column together with its inputs.
    rows_added
        How many new row ids it took.
    rows_deleted, rows_updated
        Existing rows removed; existing rows given values in ``fields_written``.
    fragments_masked
        Fragments in which positions were marked deleted, because the row is gone or lives elsewhere now.
    fragments_rewritten
        Fragments that got other values at their positions: a column group or a patch file.
    fragments_removed
        Fragments that are no longer part of the table.
    key_hashes
        Ascending 64-bit hashes of the keys it brought or looked up (IDN-14): ``()`` where the operation
        has to do with no key, None where keys are not known or not loaded.
    key_hashes_at
        Path of the object that holds the hashes where they are too many for a record; "" otherwise.
    claims
        Names that nobody else may take or change at the same time, such as ``column:price``,
        ``index:by_vec``, ``property:key`` or ``tag:v1``.
    """

    kind: str
    fields_read: frozenset[int] = frozenset()
    fields_written: frozenset[int] = frozenset()
    fields_required: frozenset[int] = frozenset()
    rows_added: int = 0
    rows_deleted: RowRuns = _NONE
    rows_updated: RowRuns = _NONE
    fragments_masked: frozenset[int] = frozenset()
    fragments_rewritten: frozenset[int] = frozenset()
    fragments_removed: frozenset[int] = frozenset()
    key_hashes: Sequence[int] | None = ()
    key_hashes_at: str = ""
    claims: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for JSON; empty parts are left out."""
        result: dict[str, Any] = {"kind": self.kind}
        for name in (*_FIELD_SETS, *_FRAGMENT_SETS, "claims"):
            if values := getattr(self, name):
                result[name] = sorted(values)
        if self.rows_added:
            result["rows_added"] = self.rows_added
        for name in _ROW_SETS:
            if rows := getattr(self, name):
                result[name] = rows.to_json()
        if self.key_hashes_at:
            result["key_hashes_at"] = self.key_hashes_at
        elif self.key_hashes is None:
            result["key_hashes"] = None
        elif len(self.key_hashes):
            result["key_hashes"] = _pack(self.key_hashes)
        return result

    def before(self, version: Version) -> OperationRecord:
        """The record without the rows, fragments and columns that its own line had not given out in a version."""
        parts: dict[str, Any] = {}
        for name in _FIELD_SETS:
            parts[name] = _below(getattr(self, name), version.next_field_id)
        for name in _FRAGMENT_SETS:
            parts[name] = _below(
                getattr(self, name), version.next_fragment_id, _end(version.next_fragment_id)
            )
        for name in _ROW_SETS:
            first = version.next_row_id
            parts[name] = getattr(self, name).outside(first, _end(first))
        return replace(self, **parts)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OperationRecord:
        """Return the record of a stored dict. Keys this release does not know are passed over.

        Raises
        ------
        CorruptionError
            A part is of the wrong type, out of range or out of order.
        """
        kind, rows_added = data.get("kind"), data.get("rows_added", 0)
        if not isinstance(kind, str) or not kind:
            raise CorruptionError("an operation record has no kind")
        if not _natural(rows_added):
            raise CorruptionError(f"rows_added of a {kind} record is {rows_added!r}")
        values: dict[str, Any] = {"kind": kind, "rows_added": rows_added}
        for name in (*_FIELD_SETS, *_FRAGMENT_SETS):
            values[name] = _numbers(data.get(name, []), f"{name} of a {kind} record")
        for name in _ROW_SETS:
            values[name] = RowRuns.from_json(data.get(name, []), f"{name} of a {kind} record")
        values["claims"] = _strings(data.get("claims", []), f"claims of a {kind} record")
        values["key_hashes_at"] = place = data.get("key_hashes_at", "")
        if not isinstance(place, str):
            raise CorruptionError(f"key_hashes_at of a {kind} record is {place!r}")
        packed = data.get("key_hashes", "")
        values["key_hashes"] = None if place or packed is None else _unpack(packed, kind)
        return cls(**values)


def _below(numbers: frozenset[int], limit: int, end: int | None = None) -> frozenset[int]:
    """Those below a limit, and those from an end on, where there is one."""
    return frozenset(one for one in numbers if one < limit or (end is not None and one >= end))


def _end(counter: int) -> int:
    """Where the ids of a counter's line end; those beyond are of lines that were brought in."""
    return (line_of(counter) + 1) * LINE_IDS


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _numbers(value: object, where: str) -> frozenset[int]:
    if not isinstance(value, list) or not all(_natural(item) for item in value):
        raise CorruptionError(f"{where} is not a list of numbers")
    return frozenset(value)


def _strings(value: object, where: str) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise CorruptionError(f"{where} is not a list of strings")
    return frozenset(value)


def _pack(hashes: Sequence[int]) -> str:
    """Base64 of little-endian u64, ascending: larger than JSON numbers may be elsewhere."""
    words = array("Q", hashes)
    if byteorder == "big":
        words.byteswap()
    return base64.b64encode(words.tobytes()).decode("ascii")


def _unpack(text: object, kind: str) -> Sequence[int]:
    where = f"key_hashes of a {kind} record"
    if not isinstance(text, str):
        raise CorruptionError(f"{where} is not text")
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CorruptionError(f"{where} is not base64") from error
    if len(data) % 8:
        raise CorruptionError(f"{where} is not a whole number of hashes")
    words = array("Q", data)
    if byteorder == "big":
        words.byteswap()
    if any(later <= earlier for earlier, later in pairwise(words)):
        raise CorruptionError(f"{where} is not ascending")
    return tuple(words)
