"""The key index of a version: sorted runs of key hashes, which rows each run knows, and which it knows wrongly.

Values and their plain JSON form only (spec/keys.md, KEY clauses); the bytes of a run, and looking into it, are the
engine's work. A run numbers rows by their rank among the row ids it covers, so it holds no row id itself.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_format.errors import CorruptionError
from lake_format.row_ids import U64
from lake_format.row_runs import RowRuns
from lake_format.row_runs import united as united_runs
from lake_format.store.paths import check_object_path

__all__ = [
    "KEY_INDEX_FEATURE",
    "Intervals",
    "KeyIndex",
    "KeyRun",
    "KeyRunsMerged",
    "NewKeyRun",
    "Numbering",
    "intervals_of",
    "runs_of",
    "united",
    "without",
]

KEY_INDEX_FEATURE = "key-index"

_MAX_STALE_RUNS = 4_096
"""Stale rows are told more coarsely beyond so many runs: more rows are looked at, none is missed."""
_LIMIT = 1 << 63
_NUMBERS = ("entries", "size", "head_offset", "head_length", "head_crc", "filter_length")

_NONE = RowRuns()

Intervals = tuple[U64, U64]
"""First row ids and lengths of runs of row ids; ascending, none overlapping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKeyRun:
    """A run written and not committed yet: it numbers ``row_count`` rows, and has no row ids.

    Attributes
    ----------
    entries, row_count
        How many hashes it holds; how many rows its ordinals count.
    path, size, head_offset, head_length, head_crc
        Its file, and where in it the head lies; no path where ``hashes`` are given.
    filter_length
        Bytes of the filter, which ends where the head begins.
    hashes
        Of a small run: the hash of each ordinal, as they lie in the version object.
    """

    entries: int
    row_count: int
    path: str = ""
    size: int = 0
    head_offset: int = 0
    head_length: int = 0
    head_crc: int = 0
    filter_length: int = 0
    hashes: bytes = b""

    def placed(self, rows: RowRuns) -> KeyRun:
        """The run of these rows."""
        return KeyRun(run=self, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRun:
    """A run and the row ids that its ordinals stand for: ordinal *o* is the *o*-th smallest of them (IDN-8)."""

    run: NewKeyRun
    rows: RowRuns

    @property
    def identity(self) -> tuple[str, RowRuns]:
        """What tells this run from any other, and from itself over rows whose ids a rebase has shifted."""
        return self.run.path, self.rows

    @property
    def intervals(self) -> Intervals:
        """The row ids it covers."""
        return _arrays(self.rows)

    def row_ids(self, ordinals: npt.NDArray[np.int64]) -> U64:
        """The row ids that ordinals stand for; CorruptionError for one that is out of range."""
        if len(ordinals) and int(ordinals.max()) >= self.run.row_count:
            raise CorruptionError(f"key index run {self.run.path!r} holds an ordinal of no row")
        return Numbering(self.rows).row_ids(ordinals)


class Numbering:
    """Numbers the rows of a set 0, 1, 2, … in ascending order of row id."""

    def __init__(self, rows: RowRuns) -> None:
        self._first, length = _arrays(rows)
        self._length = length.astype(np.int64)
        self._ends = np.cumsum(self._length)

    def row_ids(self, ordinals: npt.NDArray[np.int64]) -> U64:
        """The row ids that ordinals stand for."""
        at = np.searchsorted(self._ends, ordinals, side="right")
        within = ordinals - (self._ends[at] - self._length[at])
        return np.asarray(self._first[at] + within.astype(np.uint64))

    def ordinals(self, row_ids: U64) -> npt.NDArray[np.int64]:
        """The numbers of row ids of the set."""
        at = np.searchsorted(self._first, row_ids, side="right") - 1
        within = (row_ids - self._first[at]).astype(np.int64)
        return np.asarray(self._ends[at] - self._length[at] + within)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRunsMerged:
    """A run to be put in place of others of the version it was planned on.

    Attributes
    ----------
    replaced
        Identities of the runs that it replaces.
    run
        The new one, with the rows it covers; None where no row of the others is left.
    refreshed
        Rows that were stale and have their present hash in it.
    """

    replaced: frozenset[tuple[str, RowRuns]]
    run: KeyRun | None
    refreshed: RowRuns = _NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyIndex:
    """The runs of a version's key index.

    Every live row that a run covers and that is not stale has its key's hash in a run that covers it. All other live
    rows are looked at one by one, so an index may be behind, never wrong.
    """

    field_ids: tuple[int, ...]
    runs: tuple[KeyRun, ...] = ()
    stale: RowRuns = _NONE

    def with_fresh(self, runs: Sequence[NewKeyRun], first_row_id: int) -> KeyIndex:
        """The index with runs over new rows, whose ids begin here."""
        placed = []
        for run in runs:
            placed.append(run.placed(RowRuns(((first_row_id, run.row_count),))))
            first_row_id += run.row_count
        return replace(self, runs=(*self.runs, *placed))

    def with_stale(self, row_ids: U64) -> KeyIndex:
        """The index not answering any more for rows that got another key."""
        stale = runs_of(united([_arrays(self.stale), intervals_of(row_ids)]))
        return replace(self, stale=stale.coarsened(_MAX_STALE_RUNS))

    def with_merged(self, merged: KeyRunsMerged) -> KeyIndex:
        """The index with one run in place of several; as it is where they or the stale rows are others."""
        gone = not merged.replaced <= {run.identity for run in self.runs}
        if gone or len(without(_arrays(merged.refreshed), _arrays(self.stale))[0]):
            return self
        kept = tuple(run for run in self.runs if run.identity not in merged.replaced)
        stale = runs_of(without(_arrays(self.stale), _arrays(merged.refreshed)))
        return replace(self, runs=kept + ((merged.run,) if merged.run else ()), stale=stale)

    def answered(self) -> Intervals:
        """The row ids that the index answers for."""
        return without(united([_arrays(run.rows) for run in self.runs]), _arrays(self.stale))

    def paths(self) -> Iterable[str]:
        """Every file."""
        return (run.run.path for run in self.runs if run.run.path)

    def renamed(self, name: Callable[[str, int], str]) -> KeyIndex:
        """The index with other names for its files, each given by path and size."""
        runs = []
        for one in self.runs:
            path = name(one.run.path, one.run.size) if one.run.path else ""
            runs.append(replace(one, run=replace(one.run, path=path)))
        return replace(self, runs=tuple(runs))

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return {
            "fields": list(self.field_ids),
            "stale": self.stale.to_json(),
            "runs": [_run_to_json(run) for run in self.runs],
        }

    @classmethod
    def from_json(cls, raw: object) -> KeyIndex:
        """Check and take what :meth:`to_json` gave; CorruptionError for anything else."""
        if not isinstance(raw, dict) or not isinstance(raw.get("runs"), list):
            raise CorruptionError("the key index is no object with runs")
        fields = raw.get("fields")
        if not isinstance(fields, list) or not fields or not all(_natural(one) for one in fields):
            raise CorruptionError("the key index does not say which fields it is over")
        return cls(
            field_ids=tuple(fields),
            runs=tuple(_run_from_json(one) for one in raw["runs"]),
            stale=RowRuns.from_json(raw.get("stale", []), "stale of the key index"),
        )


def intervals_of(row_ids: U64) -> Intervals:
    """Row ids, in any order, as runs."""
    return _arrays(RowRuns.from_ids(row_ids))


def runs_of(intervals: Intervals) -> RowRuns:
    """Runs as a set of row ids."""
    return RowRuns.from_arrays(*intervals)


def united(parts: Sequence[Intervals]) -> Intervals:
    """The row ids that are in any of the parts, touching runs joined."""
    first = np.concatenate([part[0] for part in parts] or [np.empty(0, np.uint64)])
    length = np.concatenate([part[1] for part in parts] or [np.empty(0, np.uint64)])
    return united_runs(first, length)


def without(some: Intervals, gone: Intervals) -> Intervals:
    """The row ids of ``some`` that are not in ``gone``."""
    if len(gone[0]) == 0 or len(some[0]) == 0:
        return some
    # A sweep over all ends: a piece counts where it is inside of some and of none that are gone.
    points = np.concatenate([some[0], some[0] + some[1], gone[0], gone[0] + gone[1]])
    ones, twos = np.ones(len(some[0]), np.int64), np.full(len(gone[0]), 2, np.int64)
    steps = np.concatenate([ones, -ones, twos, -twos])
    order = np.argsort(points, kind="stable")
    points, inside = points[order], np.cumsum(steps[order])
    last_of_equal = np.r_[points[1:] != points[:-1], True]
    points, inside = points[last_of_equal], inside[last_of_equal]
    keep = inside[:-1] == 1
    return points[:-1][keep], (points[1:] - points[:-1])[keep]


def _arrays(runs: RowRuns) -> Intervals:
    return runs.first, runs.count


def _run_to_json(run: KeyRun) -> dict[str, Any]:
    new = run.run
    shape: dict[str, Any] = {"entries": new.entries, "rows": run.rows.to_json()}
    if not new.path:
        return {**shape, "hashes": base64.b64encode(new.hashes).decode("ascii")}
    return {
        **shape,
        "path": new.path,
        "size": new.size,
        "head_offset": new.head_offset,
        "head_length": new.head_length,
        "head_crc": new.head_crc,
        "filter_length": new.filter_length,
    }


def _run_from_json(raw: object) -> KeyRun:
    if not isinstance(raw, dict):
        raise CorruptionError("a run of the key index is no object")
    rows = RowRuns.from_json(raw.get("rows"), "rows of a run of the key index")
    if not rows:
        raise CorruptionError("a run of the key index covers no row")
    if "hashes" in raw:
        return _inline_from_json(raw, rows)
    numbers = {name: _number(raw, name) for name in _NUMBERS}
    path = raw.get("path")
    ends = numbers["head_offset"] + numbers["head_length"]
    if (
        not isinstance(path, str)
        or ends > numbers["size"]
        or numbers["filter_length"] > numbers["head_offset"]
    ):
        raise CorruptionError("a run of the key index has no path, or its head lies outside of its file")
    return KeyRun(
        run=NewKeyRun(path=check_object_path(path), row_count=len(rows), hashes=b"", **numbers), rows=rows
    )


def _inline_from_json(raw: Mapping[str, Any], rows: RowRuns) -> KeyRun:
    try:
        hashes = base64.b64decode(raw["hashes"], validate=True)
    except (ValueError, TypeError) as error:
        raise CorruptionError("hashes of a run of the key index are not base64") from error
    count = _number(raw, "entries")
    if len(hashes) != 8 * count or count != len(rows):
        raise CorruptionError("a run of the key index does not have one hash for each row")
    return KeyRun(run=NewKeyRun(entries=count, row_count=count, hashes=hashes), rows=rows)


def _number(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if not _natural(value):
        raise CorruptionError(f"{name} of a run of the key index is {value!r}")
    return int(value)  # type: ignore[arg-type]


def _natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LIMIT
