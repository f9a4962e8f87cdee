"""Scans: prune fragments by statistics, read filter columns first, then only surviving rows of the others.

The plan is a generator from end to end: a reader that stops early costs what it has read.

"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.types import is_dictionary

from lake_engines.arrays import joined, keep
from lake_engines.files.dictionaries import as_dictionaries, with_dictionaries
from lake_engines.filters import compile_filter
from lake_engines.fragment_reader import FragmentReader, ReaderPool, output_schema
from lake_engines.predicate import BoundPredicate
from lake_format.engine import ScanRequest
from lake_format.model import Fragment
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot

__all__ = ["count_rows", "matching_positions", "prune", "scan_parts", "scan_rows"]

_BATCH_ROWS = 131_072
_DENSE = 0.25
"""Above this share of surviving rows a window's other columns are read whole and filtered."""
_ENOUGH = 1024
"""Survivors for which the other columns are read without waiting for more."""


def prune(
    snapshot: Snapshot, predicate: BoundPredicate | None, only: Collection[int] | None = None
) -> list[Fragment]:
    """The fragments that may hold matching rows, among those with the ids ``only`` (None is all)."""
    table = _narrowed(snapshot, predicate, only).fragments
    wanted = None if predicate is None else predicate.prune(table)
    if only is not None:
        named = np.isin(table.integers("fragment_id"), np.array(sorted(only), np.uint64))
        wanted = named if wanted is None else named & wanted
    return table.fragments(wanted)


def _narrowed(
    snapshot: Snapshot, predicate: BoundPredicate | None, only: Collection[int] | None = None
) -> Snapshot:
    """The version without the manifests that say that none of their fragments matters."""
    wanted = np.ones(len(snapshot.version.manifests), bool)
    if predicate is not None:
        wanted &= predicate.prune(snapshot.manifest_bounds)
    if only is not None:
        wanted &= snapshot.manifest_bounds.may_list(np.array(sorted(only), np.uint64))
    return snapshot.narrowed(wanted)


def scan_parts(snapshot: Snapshot, where: object | None) -> list[tuple[int, int]]:
    """Id and live rows of each fragment that may hold matching rows."""
    found = prune(snapshot, compile_filter(snapshot, where))
    return [(fragment.fragment_id, fragment.row_count - fragment.deleted_count) for fragment in found]


def scan_rows(snapshot: Snapshot, request: ScanRequest, pool: ReaderPool) -> pa.RecordBatchReader:
    """Live, matching rows as a stream, in fragment order."""
    predicate = compile_filter(snapshot, request.where)
    schema = output_schema(snapshot, request.columns)
    batches = _batches(snapshot, request, predicate, pool)
    if request.limit is not None:
        batches = _limited(batches, request.limit)
    if request.dictionaries:
        schema = with_dictionaries(schema)
        batches = (as_dictionaries(batch, schema) for batch in batches)
    return pa.RecordBatchReader.from_batches(schema, batches)


def count_rows(snapshot: Snapshot, where: object | None, pool: ReaderPool) -> int:
    """How many live rows match."""
    predicate = compile_filter(snapshot, where)
    if predicate is None:
        return snapshot.version.row_count
    fragments = _narrowed(snapshot, predicate).fragments
    covered = predicate.covers(fragments)
    candidates = predicate.prune(fragments)
    whole = fragments.fragments(covered)
    return sum(fragment.row_count - fragment.deleted_count for fragment in whole) + sum(
        len(positions)
        for fragment in fragments.fragments(candidates & ~covered)
        for positions in matching_positions(FragmentReader(snapshot, fragment, pool), predicate)
    )


def matching_positions(reader: FragmentReader, predicate: BoundPredicate) -> Iterator[npt.NDArray[np.int64]]:
    """Positions of live rows of a fragment that match, ascending, window by window."""
    names = sorted(predicate.columns)
    for window in _windows(reader, names, predicate, _BATCH_ROWS, dictionaries=True):
        yield window.start + np.flatnonzero(window.mask)


@dataclass(slots=True)
class _Window:
    """Consecutive rows of a fragment: those that survive, and the columns read to find out."""

    start: int
    mask: npt.NDArray[np.bool_]
    batch: pa.RecordBatch


def _windows(
    reader: FragmentReader,
    names: Sequence[str],
    predicate: BoundPredicate | None,
    batch_rows: int,
    *,
    dictionaries: bool,
) -> Iterator[_Window]:
    deleted = reader.deleted()
    rows = reader.fragment.row_count
    for start, batch in reader.scan(names, 0, rows, batch_rows, dictionaries=dictionaries):
        mask = np.ones(batch.num_rows, bool) if predicate is None else np.array(predicate.mask(batch))
        if len(deleted):
            mask[_within(deleted, start, batch.num_rows)] = False
        yield _Window(start, mask, batch)


def _within(deleted: U64, start: int, rows: int) -> npt.NDArray[np.int64]:
    low, high = np.searchsorted(deleted, [start, start + rows])
    return deleted[low:high].astype(np.int64) - start


def _batches(
    snapshot: Snapshot, request: ScanRequest, predicate: BoundPredicate | None, pool: ReaderPool
) -> Iterator[pa.RecordBatch]:
    batch_rows = request.batch_rows or _BATCH_ROWS
    for fragment in prune(snapshot, predicate, request.fragments):
        reader = FragmentReader(snapshot, fragment, pool)
        encoded = request.dictionaries
        if predicate is not None:
            yield from _filtered(reader, request, predicate, batch_rows)
        elif fragment.deleted_count == 0:
            rows = fragment.row_count
            for _, batch in reader.scan(request.columns, 0, rows, batch_rows, dictionaries=encoded):
                yield batch
        else:
            for window in _windows(reader, request.columns, None, batch_rows, dictionaries=encoded):
                yield keep(window.batch, window.mask)


def _filtered(
    reader: FragmentReader, request: ScanRequest, predicate: BoundPredicate, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Matching rows: filter columns first, then the rest of the windows that have survivors."""
    columns, encoded = request.columns, request.dictionaries
    rest = [name for name in columns if name not in predicate.columns]
    windows = _windows(reader, sorted(predicate.columns), predicate, batch_rows, dictionaries=encoded)
    for together in _together(windows, batch_rows if rest else 0):
        parts = [keep(window.batch, window.mask) for window in together]
        known = parts[0] if len(parts) == 1 else _joined(parts)
        if not rest:
            yield known.select(list(columns))
            continue
        others = _rest_of(reader, rest, together, dictionaries=encoded)
        yield pa.RecordBatch.from_arrays(
            [(known if name in predicate.columns else others).column(name) for name in columns],
            schema=pa.schema(
                [(known if name in predicate.columns else others).schema.field(name) for name in columns]
            ),
        )


def _together(windows: Iterator[_Window], most: int) -> Iterator[list[_Window]]:
    """Windows with survivors; those with few of them in groups, since a file is asked once for each group.

    A group has at most about ``most`` survivors and is not waited for long, for a reader that stops early.
    """
    group: list[_Window] = []
    survivors = 0
    for window in windows:
        kept = int(window.mask.sum())
        dense = kept >= len(window.mask) * _DENSE
        far = bool(group) and window.start - group[0].start >= _BATCH_ROWS
        if group and (far or (kept and dense) or survivors + kept > most):
            yield group
            group, survivors = [], 0
        if kept:
            group.append(window)
            survivors += kept
            if dense or survivors >= min(_ENOUGH, most):
                yield group
                group, survivors = [], 0
    if group:
        yield group


def _rest_of(
    reader: FragmentReader, names: list[str], windows: list[_Window], *, dictionaries: bool
) -> pa.RecordBatch:
    """The other columns of the rows that survive."""
    if len(windows) == 1:
        return _rest_of_window(reader, names, windows[0], dictionaries=dictionaries)
    positions = [window.start + np.flatnonzero(window.mask) for window in windows]
    return reader.take(np.concatenate(positions).astype(np.uint64), names)


def _rest_of_window(
    reader: FragmentReader, names: list[str], window: _Window, *, dictionaries: bool
) -> pa.RecordBatch:
    rows = len(window.mask)
    if int(window.mask.sum()) < rows * _DENSE:
        positions = (window.start + np.flatnonzero(window.mask)).astype(np.uint64)
        return reader.take(positions, names)
    stop = window.start + rows
    found = [batch for _, batch in reader.scan(names, window.start, stop, rows, dictionaries=dictionaries)]
    ends = np.cumsum([batch.num_rows for batch in found])[:-1]
    masks = np.split(window.mask, ends)
    parts = [keep(batch, mask) for batch, mask in zip(found, masks, strict=True)]
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Batches one after the other. Columns of text may be dictionaries in some of them."""
    columns = []
    for number in range(parts[0].num_columns):
        arrays = [part.column(number) for part in parts]
        if len({str(array.type) for array in arrays}) > 1:
            arrays = [array.dictionary_decode() if is_dictionary(array.type) else array for array in arrays]
        columns.append(joined(arrays))
    fields = [field.with_type(array.type) for field, array in zip(parts[0].schema, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _limited(batches: Iterator[pa.RecordBatch], limit: int) -> Iterator[pa.RecordBatch]:
    left = limit
    while left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        yield batch.slice(0, left)
        left -= batch.num_rows
