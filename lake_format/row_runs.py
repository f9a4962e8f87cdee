"""Sets of row ids as ascending runs, the form in which operation records and index coverage name rows.

A value with set questions on it, and its form in JSON: lists where runs are few, else a row-id sequence
(spec/identity.md, IDN-8, CON-3, CON-14). No I/O.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from lake_format.errors import CorruptionError
from lake_format.row_ids import U64, packed_runs, row_id_runs

__all__ = ["RowRuns", "united"]

_LIMIT = 1 << 63
_PACKED_FROM = 64
"""From so many runs on a packed sequence is shorter than lists, and much quicker to write and read."""


class RowRuns:
    """A set of row ids: ``(first, count)`` runs, ascending, none empty, no two overlapping or touching.

    Immutable. Held as two arrays, since a commit of scattered rows has thousands of runs.
    """

    __slots__ = ("_text", "count", "first")

    first: U64
    """The first row id of each run."""
    count: U64
    """How many row ids it has."""
    _text: str

    def __init__(self, runs: Sequence[tuple[int, int]] = ()) -> None:
        pairs = np.array(runs, np.uint64).reshape(-1, 2)
        self._hold(pairs[:, 0].copy(), pairs[:, 1].copy())

    def _hold(self, first: U64, count: U64, text: str = "") -> None:
        first.flags.writeable = count.flags.writeable = False
        for name, value in (("first", first), ("count", count), ("_text", text)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_arrays(cls, first: U64, count: U64) -> RowRuns:
        """Return the set of these runs, which are as a set's must be; the arrays are kept."""
        found = cls.__new__(cls)
        found._hold(first, count)
        return found

    @classmethod
    def from_ids(cls, row_ids: Iterable[int] | U64) -> RowRuns:
        """Return the set of these row ids, given in any order, repeats allowed."""
        given = row_ids if isinstance(row_ids, np.ndarray) else np.array(list(row_ids), np.uint64)
        ids = np.sort(given)
        starts = np.flatnonzero(np.r_[True, ids[1:] > ids[:-1] + np.uint64(1)][: len(ids)])
        ends = ids[np.r_[starts[1:] - 1, len(ids) - 1]] if len(ids) else ids
        return cls.from_arrays(ids[starts], ends - ids[starts] + np.uint64(len(ids) > 0))

    @classmethod
    def covering(cls, runs: Iterable[tuple[int, int]]) -> RowRuns:
        """Return the set of the row ids in these runs, given in any order; they may touch and overlap."""
        pairs = np.array([run for run in runs if run[1]], np.uint64).reshape(-1, 2)
        return cls.from_arrays(*united(pairs[:, 0], pairs[:, 1]))

    @classmethod
    def from_json(cls, value: object, where: str) -> RowRuns:
        """Check and take what :meth:`to_json` gave; CorruptionError naming ``where`` for anything else."""
        if isinstance(value, str):
            return cls._unpacked(value, where)
        if not isinstance(value, list):
            raise CorruptionError(f"{where} is not a list of runs")
        runs: list[tuple[int, int]] = []
        end = -1
        for item in value:
            match item:
                case [int() as first, int() as count] if end < first < first + count <= _LIMIT:
                    runs.append((first, count))
                    end = first + count
                case _:
                    raise CorruptionError(f"{where} holds {item!r}, which is not an ascending run of row ids")
        return cls(runs)

    @classmethod
    def _unpacked(cls, text: str, where: str) -> RowRuns:
        try:
            first, count = row_id_runs(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise CorruptionError(f"{where} is not base64") from error
        except CorruptionError as error:
            raise CorruptionError(f"{where} cannot be read: {error.what}") from error
        if not len(first):
            raise CorruptionError(f"{where} is a sequence without row ids")
        found = cls.__new__(cls)
        found._hold(first, count.astype(np.uint64), text)
        return found

    def to_json(self) -> list[list[int]] | str:
        """Return the runs for JSON: as lists, or, where they are many, as the base64 of a row-id sequence."""
        if len(self.first) < _PACKED_FROM:
            return [[first, count] for first, count in self.runs]
        if not self._text:
            text = base64.b64encode(packed_runs(self.first, self.count)).decode("ascii")
            object.__setattr__(self, "_text", text)
        return self._text

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The runs one by one."""
        return tuple(zip(self.first.tolist(), self.count.tolist(), strict=True))

    @property
    def _ends(self) -> U64:
        return self.first + self.count

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a RowRuns is immutable: {name!r} cannot be set")

    def __reduce__(self) -> tuple[Any, ...]:
        return RowRuns.from_arrays, (self.first, self.count)

    def __repr__(self) -> str:
        return f"RowRuns({self.runs!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowRuns):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.count, other.count)

    def __hash__(self) -> int:
        return hash((self.first.tobytes(), self.count.tobytes()))

    def __bool__(self) -> bool:
        return len(self.first) > 0

    def __len__(self) -> int:
        """How many row ids the set holds."""
        return int(self.count.sum())

    def __iter__(self) -> Iterator[int]:
        """Yield the row ids, ascending."""
        for first, count in self.runs:
            yield from range(first, first + count)

    def overlaps(self, other: RowRuns) -> bool:
        """Whether the two sets share a row id."""
        few, many = sorted((self, other), key=lambda one: len(one.first))
        at = np.searchsorted(many.first, few._ends) - 1  # the last run that begins before each ends
        return bool((many._ends[at[at >= 0]] > few.first[at >= 0]).any())

    def outside(self, start: int, end: int) -> RowRuns:
        """Return the set without the row ids from ``start`` up to ``end``."""
        if not self or int(self._ends[-1]) <= start:
            return self
        low, high = np.uint64(start), np.uint64(end)
        first = np.stack([self.first, np.maximum(self.first, high)], axis=1).ravel()
        stop = np.stack([np.minimum(self._ends, low), self._ends], axis=1).ravel()
        kept = first < stop
        return RowRuns.from_arrays(first[kept], stop[kept] - first[kept])

    def coarsened(self, max_runs: int) -> RowRuns:
        """Return a set of at most ``max_runs`` runs that holds this one: the narrowest gaps are closed."""
        surplus = len(self.first) - max(1, max_runs)
        if surplus <= 0:
            return self
        gaps = self.first[1:] - self._ends[:-1]
        begins = np.ones(len(self.first), bool)
        begins[np.argsort(gaps, kind="stable")[:surplus] + 1] = False
        starts = np.flatnonzero(begins)
        lasts = np.r_[starts[1:] - 1, len(begins) - 1]
        return RowRuns.from_arrays(self.first[starts], self._ends[lasts] - self.first[starts])


def united(first: U64, count: U64) -> tuple[U64, U64]:
    """The row ids of runs that may touch and overlap, as runs that do not; in any order, out ascending."""
    if len(first) == 0:
        return first.copy(), count.copy()
    order = np.argsort(first, kind="stable")
    first, ends = first[order], np.maximum.accumulate((first + count)[order])
    starts = np.flatnonzero(np.r_[True, first[1:] > ends[:-1]])
    lasts = np.r_[starts[1:] - 1, len(first) - 1]
    return first[starts], ends[lasts] - first[starts]
