"""Where the rows of a version live: row ids to fragments and positions.

A few rows are found without looking at the others; who asks for many, or for all, has runs of all live rows made.
Reads manifests only, through fragments that are decoded already or on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lake_format.errors import CorruptionError
from lake_format.manifest import FragmentTable
from lake_format.model import Fragment
from lake_format.positions import deleted_positions
from lake_format.row_ids import U64

__all__ = ["RowLocations", "Runs"]

I64 = npt.NDArray[np.int64]
Runs = tuple[U64, I64, I64, I64]
"""First row id, length, fragment row and first position of runs of live rows; shape ``(runs,)`` each."""

_FEW_TIMES = 8
"""So often rows are looked for one by one; then all runs are made, which serves any number of questions."""

_FILTER_BITS = 16
"""Slots of the filter for each row id looked for: another one passes it once in so many times."""

_SPREAD = np.uint64(0x9E3779B97F4A7C15)


class RowLocations:
    """Maps row ids to live rows.

    Making it costs O(fragments). Fragments hold consecutive row ids, one by position, or, after rows were moved,
    row ids in any order; a moved row is dead where it was.

    Raises
    ------
    CorruptionError
        Two fragments without deletions hold the same row id. With deletions that shows when ``runs`` are made.
    """

    def __init__(self, fragments: FragmentTable) -> None:
        self._fragments = fragments
        self._worn = fragments.integers("deleted_count") > 0
        moved = _has_sequence(fragments)
        self._special = self._worn | moved
        first = fragments.integers("first_row_id")
        length = fragments.integers("row_count").astype(np.int64)
        self._refuse_doubles(~self._special, first, length)
        owner = np.flatnonzero(~moved)
        owner = owner[np.argsort(first[owner], kind="stable")]
        ends = first[owner] + length[owner].astype(np.uint64)
        inside = np.zeros(len(owner), bool)  # within ids of a fragment that begins before
        if len(owner):
            inside[1:] = first[owner[1:]] < np.maximum.accumulate(ends)[:-1]
        self._first, self._length, self._owner = (
            part[owner[~inside]] for part in (first, length, np.arange(len(first)))
        )
        self._others = np.sort(np.concatenate([owner[inside], np.flatnonzero(moved)]))
        self._asked = 0

    def _refuse_doubles(self, whole: npt.NDArray[np.bool_], first: U64, length: I64) -> None:
        order = np.argsort(first[whole], kind="stable")
        starts = first[whole][order]
        ends = starts + length[whole][order].astype(np.uint64)
        if (ends[:-1] > starts[1:]).any():
            raise _live_twice()

    @cached_property
    def runs(self) -> Runs:
        """All live rows, ascending by row id.

        Looks into every fragment with deleted or moved rows; CorruptionError if a row id is live twice.
        """
        found = self.runs_of(np.arange(len(self._fragments)))
        order = np.argsort(found[0], kind="stable")
        first, length, owner, position = found[0][order], found[1][order], found[2][order], found[3][order]
        if (first[:-1] + length[:-1].astype(np.uint64) > first[1:]).any():
            raise _live_twice()
        return first, length, owner, position

    def runs_of(self, owners: I64) -> Runs:
        """The live rows of some fragments, in no order.

        Parameters
        ----------
        owners
            Rows of the fragment table.
        """
        special = self._special[owners]
        inside = [_runs(self._fragments.fragment(owner), owner) for owner in owners[special].tolist()]
        return _joined([self._whole(owners[~special]), *inside])

    def locate(self, row_ids: U64) -> tuple[I64, I64]:
        """Where rows are.

        Parameters
        ----------
        row_ids
            Any row ids, any order; shape ``(n,)``.

        Returns
        -------
        (ndarray, ndarray)
            Fragment row in the fragment table and position in the fragment; both -1 for a row id that is not
            live; shape ``(n,)`` each.
        """
        self._asked += 1
        if "runs" in self.__dict__ or self._asked > _FEW_TIMES:
            return self._located_in_runs(row_ids)
        owners, positions = self._located_in_place(row_ids)
        left = np.flatnonzero(owners < 0)
        if len(left) == 0 or len(self._others) == 0:
            return owners, positions
        distinct, back = row_ids[left], np.arange(len(left))
        if (distinct[1:] <= distinct[:-1]).any():
            distinct, back = np.unique(distinct, return_inverse=True)
        moved, at = _nowhere(len(distinct))
        wanted = _Wanted(distinct)
        for owner, fragment in self._others_near(distinct):
            found, where = wanted.live_in(fragment)
            moved[found], at[found] = owner, where
        owners[left], positions[left] = moved[back], at[back]
        return owners, positions

    def _located_in_runs(self, row_ids: U64) -> tuple[I64, I64]:
        first, length, owner, position = self.runs
        if len(first) == 0:
            return _nowhere(len(row_ids))
        run = np.searchsorted(first, row_ids, side="right") - 1
        offset = (row_ids - first[run]).astype(np.int64)
        live = (run >= 0) & (offset >= 0) & (offset < length[run])
        return np.where(live, owner[run], -1), np.where(live, position[run] + offset, -1)

    def _located_in_place(self, row_ids: U64) -> tuple[I64, I64]:
        """Rows that are where they were appended."""
        if len(self._first) == 0:
            return _nowhere(len(row_ids))
        run = np.searchsorted(self._first, row_ids, side="right") - 1
        offset = (row_ids - self._first[run]).astype(np.int64)
        live = (run >= 0) & (offset >= 0) & (offset < self._length[run])
        owners, positions = np.where(live, self._owner[run], -1), np.where(live, offset, -1)
        for owner in np.unique(owners[live]).tolist():
            if self._worn[owner]:
                mine = np.flatnonzero(owners == owner)
                dead = _is_deleted(self._fragments.fragment(owner), positions[mine])
                owners[mine[dead]] = positions[mine[dead]] = -1
        return owners, positions

    def _others_near(self, row_ids: U64) -> Iterator[tuple[int, Fragment]]:
        """The fragments in which these rows, ascending, may be, apart from those where rows are in place."""
        low, high = self._fragments.row_id_limits()
        for owner in self._others.tolist():
            if low[owner] <= row_ids[-1] and row_ids[0] <= high[owner]:
                yield owner, self._fragments.fragment(owner)

    def _whole(self, owners: I64) -> Runs:
        """Fragments whose rows are all live and consecutive."""
        first = self._fragments.integers("first_row_id")[owners]
        length = self._fragments.integers("row_count")[owners].astype(np.int64)
        return first, length, owners.astype(np.int64), np.zeros(len(owners), np.int64)


def _live_twice() -> CorruptionError:
    return CorruptionError("a row id is live in two fragments", fix="run verify() on the table")


def _nowhere(count: int) -> tuple[I64, I64]:
    return np.full(count, -1, np.int64), np.full(count, -1, np.int64)


def _joined(parts: list[Runs]) -> Runs:
    first, length, owner, position = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, length, owner, position


def _has_sequence(fragments: FragmentTable) -> npt.NDArray[np.bool_]:
    column = fragments.table.column("first_row_id")
    if not column.null_count:
        return np.zeros(len(fragments), bool)
    return np.asarray(column.is_null().to_numpy())


def _is_deleted(fragment: Fragment, positions: I64) -> npt.NDArray[np.bool_]:
    deleted = deleted_positions(fragment).astype(np.int64)
    if len(deleted) == 0:
        return np.zeros(len(positions), bool)
    at = np.minimum(np.searchsorted(deleted, positions), len(deleted) - 1)
    return np.asarray(deleted[at] == positions)


class _Wanted:
    """Row ids that are looked for in one fragment after another.

    Parameters
    ----------
    row_ids
        At least one; ascending, distinct.
    """

    def __init__(self, row_ids: U64) -> None:
        self._ids = row_ids
        bits = max(10, int(len(row_ids) * _FILTER_BITS - 1).bit_length())
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, bool)
        self._filter[self._slot(row_ids)] = True

    def live_in(self, fragment: Fragment) -> tuple[I64, I64]:
        """Which of the row ids live in a fragment, by their index, and their positions there; shape ``(n,)`` each."""
        if fragment.first_row_id is not None:
            start = np.uint64(fragment.first_row_id)
            low, high = np.searchsorted(self._ids, [start, start + np.uint64(fragment.row_count)])
            found, positions = np.arange(low, high), (self._ids[low:high] - start).astype(np.int64)
        else:
            ids = fragment.row_ids()
            positions = np.flatnonzero(self._filter[self._slot(ids)])  # most ids are none of those looked for
            ids = ids[positions]
            found = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            same = self._ids[found] == ids
            found, positions = found[same], positions[same]
        live = ~_is_deleted(fragment, positions)
        return found[live], positions[live]

    def _slot(self, ids: U64) -> I64:
        """The filter's slot of each row id, by multiplicative hashing (Knuth, volume 3, section 6.4)."""
        return ((ids * _SPREAD) >> self._shift).view(np.int64)


def _runs(fragment: Fragment, owner: int) -> Runs:
    """The runs of live, consecutive row ids of one fragment."""
    if fragment.first_row_id is not None:  # what lies between deleted positions
        deleted = deleted_positions(fragment).astype(np.int64)
        starts, stops = np.r_[0, deleted + 1], np.r_[deleted, fragment.row_count]
        starts, stops = starts[stops > starts], stops[stops > starts]
        first = starts.astype(np.uint64) + np.uint64(fragment.first_row_id)
        return first, stops - starts, np.full(len(starts), owner, np.int64), starts
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    positions = np.flatnonzero(live)
    ids = fragment.row_ids()[positions]
    if len(ids) == 0:
        empty = np.empty(0, np.int64)
        return np.empty(0, np.uint64), empty, empty, empty
    broken = (ids[1:] != ids[:-1] + np.uint64(1)) | (positions[1:] != positions[:-1] + 1)
    starts = np.flatnonzero(np.r_[True, broken])
    lengths = np.diff(np.r_[starts, len(ids)])
    return ids[starts], lengths, np.full(len(starts), owner, np.int64), positions[starts]
