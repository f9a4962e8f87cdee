"""Sets of row ids as ascending runs, the form in which operation records and index coverage name rows.

A value with set questions on it, and its form in JSON: lists where runs are few, else a row-id sequence
(spec/identity.md, IDN-8, CON-3, CON-14). No I/O.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from lake_format.errors import CorruptionError
from lake_format.row_ids import packed_runs, row_id_runs

__all__ = ["RowRuns"]

_LIMIT = 1 << 63
_PACKED_FROM = 64
"""From so many runs on a packed sequence is shorter than lists, and much quicker to write and read."""


@dataclass(frozen=True, slots=True)
class RowRuns:
    """A set of row ids: ``(first, count)`` runs, ascending, none empty, no two overlapping or touching."""

    runs: tuple[tuple[int, int], ...] = ()
    _text: str = field(default="", init=False, repr=False, compare=False)

    @classmethod
    def from_ids(cls, row_ids: Iterable[int]) -> RowRuns:
        """Return the set of these row ids, given in any order, repeats allowed."""
        runs: list[tuple[int, int]] = []
        for row_id in sorted(set(row_ids)):
            if runs and runs[-1][0] + runs[-1][1] == row_id:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((row_id, 1))
        return cls(tuple(runs))

    @classmethod
    def covering(cls, runs: Iterable[tuple[int, int]]) -> RowRuns:
        """Return the set of the row ids in these runs, given in any order; they may touch and overlap."""
        united: list[tuple[int, int]] = []
        for first, count in sorted(runs):
            end = united[-1][0] + united[-1][1] if united else -1
            if first <= end:
                united[-1] = (united[-1][0], max(end, first + count) - united[-1][0])
            elif count:
                united.append((first, count))
        return cls(tuple(united))

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
        return cls(tuple(runs))

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
        found = cls(tuple(zip(first.tolist(), count.tolist(), strict=True)))
        object.__setattr__(found, "_text", text)
        return found

    def to_json(self) -> list[list[int]] | str:
        """Return the runs for JSON: as lists, or, where they are many, as the base64 of a row-id sequence."""
        if len(self.runs) < _PACKED_FROM:
            return [[first, count] for first, count in self.runs]
        if not self._text:
            runs = np.array(self.runs, np.uint64)
            text = base64.b64encode(packed_runs(runs[:, 0], runs[:, 1])).decode("ascii")
            object.__setattr__(self, "_text", text)
        return self._text

    def __bool__(self) -> bool:
        return bool(self.runs)

    def __len__(self) -> int:
        """How many row ids the set holds."""
        return sum(count for _, count in self.runs)

    def __iter__(self) -> Iterator[int]:
        """Yield the row ids, ascending."""
        for first, count in self.runs:
            yield from range(first, first + count)

    def overlaps(self, other: RowRuns) -> bool:
        """Whether the two sets share a row id; linear in the number of runs."""
        mine, theirs = iter(self.runs), iter(other.runs)
        left, right = next(mine, None), next(theirs, None)
        while left is not None and right is not None:
            if left[0] + left[1] <= right[0]:
                left = next(mine, None)
            elif right[0] + right[1] <= left[0]:
                right = next(theirs, None)
            else:
                return True
        return False

    def outside(self, start: int, end: int) -> RowRuns:
        """Return the set without the row ids from ``start`` up to ``end``."""
        if not self.runs or sum(self.runs[-1]) <= start:
            return self
        kept = []
        for first, count in self.runs:
            kept += [(first, min(first + count, start)), (max(first, end), first + count)]
        return RowRuns(tuple((first, stop - first) for first, stop in kept if first < stop))

    def coarsened(self, max_runs: int) -> RowRuns:
        """Return a set of at most ``max_runs`` runs that holds this one: the narrowest gaps are closed."""
        surplus = len(self.runs) - max(1, max_runs)
        if surplus <= 0:
            return self
        gaps = [later - (first + count) for (first, count), (later, _) in pairwise(self.runs)]
        closed = set(sorted(range(len(gaps)), key=gaps.__getitem__)[:surplus])
        runs = [self.runs[0]]
        for index, (first, count) in enumerate(self.runs[1:]):
            start = runs[-1][0]
            if index in closed:
                runs[-1] = (start, first + count - start)
            else:
                runs.append((first, count))
        return RowRuns(tuple(runs))
