"""Many small reads as few requests: ranges that lie near each other are read together, all in one round.

Pure planning over a store's :meth:`~lake_format.store.base.Store.get_ranges`; it caches nothing and checks no
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store.base import ByteRange, Store

__all__ = ["Plan", "plan_reads", "read_coalesced"]

_LARGEST: Final = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Plan:
    """Requests that cover wanted ranges.

    Attributes
    ----------
    requests
        What to ask the store for.
    request_of
        Which request holds each wanted range. Shape (n,), int64.
    start_in
        Where in that request's bytes the range begins. Shape (n,), int64, bytes.
    """

    requests: list[ByteRange]
    request_of: npt.NDArray[np.int64]
    start_in: npt.NDArray[np.int64]


def read_coalesced(
    store: Store, ranges: Sequence[ByteRange], *, gap: int = 32_768, max_request: int = 8 << 20
) -> list[bytes | memoryview]:
    """Read ``ranges`` in one round, near ones by one request, and return the bytes of each, in order.

    Parameters
    ----------
    store
        Where the objects are.
    ranges
        In any order, of any number of objects; they may overlap or repeat.
    gap
        Ranges at most this many bytes apart share a request. A request of an object store costs as much
        time as about a megabyte, but bytes cost money and memory: 32 KiB keeps the waste below that.
    max_request
        A request is not made longer than this by joining, so that large reads still go out side by side. A
        single range that is longer stays whole.

    Returns
    -------
    list of bytes or memoryview
        A range that was joined with others is a view into the request's bytes, and keeps them in memory.

    Raises
    ------
    CorruptionError
        A range reaches past the end of its object, or is impossible.
    """
    plan = plan_reads(ranges, gap=gap, max_request=max_request)
    blocks: list[bytes | memoryview] = list(store.get_ranges(plan.requests))
    views: list[memoryview | None] = [None] * len(blocks)
    results: list[bytes | memoryview] = []
    for wanted, request, start in zip(ranges, plan.request_of.tolist(), plan.start_in.tolist(), strict=True):
        block = blocks[request]
        if len(block) == wanted.length:
            results.append(block)
            continue
        view = views[request]
        if view is None:
            view = views[request] = memoryview(block)
        results.append(view[start : start + wanted.length])
    return results


def plan_reads(ranges: Sequence[ByteRange], *, gap: int, max_request: int) -> Plan:
    """Return the requests that :func:`read_coalesced` makes, without making them."""
    if gap < 0 or max_request < 1:
        raise InvalidInputError(
            f"gap ({gap}) must not be negative and max_request ({max_request}) be positive"
        )
    count = len(ranges)
    if count <= 1:
        return Plan(list(ranges), np.zeros(count, np.int64), np.zeros(count, np.int64))
    _check(ranges)
    numbers: dict[str, int] = {}
    files = np.fromiter((numbers.setdefault(wanted.path, len(numbers)) for wanted in ranges), np.int64, count)
    starts = np.fromiter((wanted.offset for wanted in ranges), np.int64, count)
    ends = starts + np.fromiter((wanted.length for wanted in ranges), np.int64, count)
    order = np.lexsort((starts, files))
    files, starts, ends = files[order], starts[order], ends[order]
    firsts = _first_of_each_request(files, starts, ends, gap, max_request)
    request_of_sorted = np.cumsum(firsts) - 1
    first_index = np.flatnonzero(firsts)
    request_starts = starts[first_index]
    request_ends = np.maximum.reduceat(ends, first_index)
    paths = list(numbers)
    requests = [
        ByteRange(paths[file], start, end - start)
        for file, start, end in zip(
            files[first_index].tolist(), request_starts.tolist(), request_ends.tolist(), strict=True
        )
    ]
    request_of = np.empty(count, np.int64)
    start_in = np.empty(count, np.int64)
    request_of[order] = request_of_sorted
    start_in[order] = starts - request_starts[request_of_sorted]
    return Plan(requests, request_of, start_in)


def _check(ranges: Sequence[ByteRange]) -> None:
    """Refuse ranges that would wrap around in 64 bits; they come from metadata."""
    for wanted in ranges:
        if wanted.offset < 0 or wanted.length < 0 or wanted.offset + wanted.length > _LARGEST:
            raise CorruptionError(
                f"impossible range of {wanted.path}: {wanted.length} bytes at {wanted.offset}",
                fix="the metadata that names it is damaged",
            )


def _first_of_each_request(
    files: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    gap: int,
    max_request: int,
) -> npt.NDArray[np.bool_]:
    """Mark the ranges (sorted by file and start) that begin a new request. Shape (n,).

    Wherever a range starts more than ``gap`` past everything before it in its file, a request begins. Only
    the runs that this leaves too long are cut again, one range after the other.
    """
    new_file = np.ones(len(files), np.bool_)
    new_file[1:] = files[1:] != files[:-1]
    # The furthest end so far in the same file. Only differences inside a file count: a running maximum over
    # ends lifted by a step per file that no earlier file can reach would overflow, so files go one by one.
    furthest = ends.copy()
    bounds = [*np.flatnonzero(new_file).tolist(), len(files)]
    for begin, end in pairwise(bounds):
        np.maximum.accumulate(ends[begin:end], out=furthest[begin:end])
    firsts = new_file.copy()
    firsts[1:] |= starts[1:] - furthest[:-1] > gap
    bounds = [*np.flatnonzero(firsts).tolist(), len(files)]
    for begin, end in pairwise(bounds):
        if furthest[end - 1] - starts[begin] > max_request:
            firsts[begin:end] = _cut(starts[begin:end], ends[begin:end], max_request)
    return firsts


def _cut(
    starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], max_request: int
) -> npt.NDArray[np.bool_]:
    """Mark where a request begins within one run of joined ranges, lest one grow too long. Shape (n,)."""
    firsts = np.zeros(len(starts), np.bool_)
    firsts[0] = True
    start, furthest = int(starts[0]), int(ends[0])
    for index, (next_start, next_end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        # A range that lies inside what is read anyway costs nothing.
        if next_end > furthest and next_end - start > max_request:
            firsts[index] = True
            start, furthest = next_start, next_end
        else:
            furthest = max(furthest, next_end)
    return firsts
