"""Parquet decoded by the page: a small Parquet file in memory, made of only the pages that hold wanted rows.

pyarrow decodes row groups, not pages. So the pages are copied as they are, with their dictionaries, behind
a footer that speaks of nothing else; what pyarrow then reads is an ordinary Parquet file. This module plans and
assembles; it reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from lake_engines.files import thrift
from lake_engines.files.parquet_meta import ColumnChunk, FileMeta, Pages, RowGroup
from lake_engines.files.vector_pages import MAGIC
from lake_format.errors import CorruptionError

__all__ = ["GroupPlan", "PagePlan", "assemble", "plan_group", "ranges_of", "shared_breaks"]

_I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePlan:
    """What one leaf column gives: its dictionary page (length 0 where there is none) and its wanted pages."""

    leaf: int
    dictionary_length: int
    offsets: list[int]
    lengths: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """The part of one row group that goes into the excerpt.

    Attributes
    ----------
    rows
        Rows of the excerpt's row group.
    places
        Where in those rows each wanted row is, shape ``(wanted,)``.
    leaves
        Per leaf column that is read.
    """

    group: RowGroup
    rows: int
    places: _I64
    leaves: tuple[PagePlan, ...]


def shared_breaks(pages: dict[int, Pages]) -> _I64:
    """First rows of pages that all these leaf columns of a row group have; 0 is always one."""
    return reduce(np.intersect1d, (leaf.first_rows for leaf in pages.values()))


def plan_group(group: RowGroup, pages: dict[int, Pages], wanted: _I64) -> GroupPlan:
    """Choose the pages of ``group`` that hold ``wanted`` rows (sorted, counted from the group's start).

    Columns may break their pages at different rows: the unit is the run of rows between two breaks that all
    columns share.
    """
    breaks = shared_breaks(pages)
    ends = np.append(breaks[1:], group.rows)
    units = np.searchsorted(breaks, wanted, "right") - 1
    chosen = np.unique(units)
    sizes = ends[chosen] - breaks[chosen]
    starts = np.cumsum(sizes) - sizes  # of each chosen unit within the excerpt
    rank = np.searchsorted(chosen, units)
    return GroupPlan(
        group=group,
        rows=int(sizes.sum()),
        places=wanted - breaks[units] + starts[rank],
        leaves=tuple(
            _leaf_plan(leaf, group.chunks[leaf], found, breaks[chosen], ends[chosen])
            for leaf, found in sorted(pages.items())
        ),
    )


def _leaf_plan(leaf: int, chunk: ColumnChunk, pages: Pages, starts: _I64, ends: _I64) -> PagePlan:
    low = np.searchsorted(pages.first_rows, starts)
    high = np.searchsorted(pages.first_rows, ends)
    chosen = np.concatenate([np.arange(first, last) for first, last in zip(low, high, strict=True)])
    return PagePlan(
        leaf=leaf,
        dictionary_length=chunk.data_start - chunk.start,
        offsets=pages.offsets[chosen].tolist(),
        lengths=pages.lengths[chosen].tolist(),
    )


def ranges_of(plans: Sequence[GroupPlan]) -> tuple[list[int], list[int]]:
    """Offsets and lengths of every run of bytes that :func:`assemble` needs, in its order."""
    offsets: list[int] = []
    lengths: list[int] = []
    for plan in plans:
        for leaf in plan.leaves:
            offsets += [plan.group.chunks[leaf.leaf].start, *leaf.offsets]
            lengths += [leaf.dictionary_length, *leaf.lengths]
    return offsets, lengths


def assemble(
    meta: FileMeta, plans: Sequence[GroupPlan], data: Sequence[bytes | memoryview], path: str
) -> bytes:
    """The excerpt: ``data`` is what lies at :func:`ranges_of`, in order."""
    parts: list[bytes | memoryview] = [MAGIC]
    at, used = len(MAGIC), 0
    groups = []
    for plan in plans:
        chunks = [_absent(chunk) for chunk in plan.group.chunks]
        for leaf in plan.leaves:
            dictionary, *pages = data[used : used + 1 + len(leaf.offsets)]
            used += 1 + len(leaf.offsets)
            length = leaf.dictionary_length + sum(leaf.lengths)
            values = sum(_values_in(page, path) for page in pages)
            chunks[leaf.leaf] = _present(
                plan.group.chunks[leaf.leaf], values, at, leaf.dictionary_length, length
            )
            parts += [dictionary, *pages]
            at += length
        groups.append(_group(chunks, plan.rows))
    replaced = {
        3: thrift.i64(3, sum(plan.rows for plan in plans)),
        4: thrift.list_of(4, groups),
    }
    footer = thrift.encode([replaced.get(field.id, field) for field in meta.fields])
    return b"".join([*parts, footer, len(footer).to_bytes(4, "little"), MAGIC])


def _values_in(page: bytes | memoryview, path: str) -> int:
    """The levels that a data page's header counts."""
    try:
        header, _ = thrift.decode(page)
        values: int = (header.get(5) or header[8])[1]
    except (thrift.ThriftError, KeyError, TypeError) as error:
        raise CorruptionError(f"a page header of Parquet file {path!r} is malformed: {error}") from error
    return values


def _column(chunk: ColumnChunk, values: int, at: int, dictionary: int, length: int) -> list[thrift.Field]:
    return [
        thrift.i32(1, chunk.physical_type),
        thrift.list_of(2, list(chunk.encodings)),
        thrift.list_of(3, list(chunk.path)),
        thrift.i32(4, chunk.codec),
        thrift.i64(5, values),
        thrift.i64(6, length),
        thrift.i64(7, length),
        thrift.i64(9, at + dictionary),
        *([thrift.i64(11, at)] if dictionary else []),
    ]


def _present(chunk: ColumnChunk, values: int, at: int, dictionary: int, length: int) -> list[thrift.Field]:
    return [thrift.i64(2, 0), thrift.struct(3, _column(chunk, values, at, dictionary, length))]


def _absent(chunk: ColumnChunk) -> list[thrift.Field]:
    """A column that is not read: the footer must name it, but nothing is there."""
    return _present(chunk, 0, len(MAGIC), 0, 0)


def _group(chunks: Sequence[Sequence[thrift.Field]], rows: int) -> list[thrift.Field]:
    return [thrift.list_of(1, chunks), thrift.i64(2, 0), thrift.i64(3, rows)]
