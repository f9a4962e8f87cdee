"""Writes one column of a fragment as a new column group: values where rows get one, what was there elsewhere.

Only the columns that the values are made of are read, and only the new column is written: vectors and all other
groups stay untouched (spec/evolution.md, EVO-6). Memory is bounded by a window of rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.arrays import keep, member_of, overlaid, unsliced, with_member
from lake_engines.changes.matching import live_positions
from lake_engines.changes.placing import touched
from lake_engines.changes.values import Target
from lake_engines.evolution.sources import Source, open_source
from lake_engines.files.base import rows_only
from lake_engines.filters import compile_filter
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.scan import matching_positions
from lake_engines.write import discard_objects, plan_groups
from lake_format.computed_columns import expression_of
from lake_format.errors import InvalidInputError
from lake_format.filling import FillRequest
from lake_format.model import ColumnGroup, NewFragment
from lake_format.parallel import in_order
from lake_format.row_edits import FragmentRewrite, RowEdits
from lake_format.snapshot import Snapshot
from lake_format.statistics import StatisticsBuilder

__all__ = ["complete_fragments", "fill_column", "fill_inputs"]

_WINDOW_ROWS = 65_536
_WORKERS = 4


def fill_inputs(snapshot: Snapshot, request: FillRequest) -> frozenset[str]:
    """The columns that decide which values are written: what they are made of, and what the filter reads."""
    source = _source(snapshot, request)
    predicate = compile_filter(snapshot, request.where)
    return source.inputs | (predicate.columns if predicate is not None else frozenset())


def fill_column(snapshot: Snapshot, request: FillRequest, pool: ReaderPool) -> RowEdits:
    """Write the column's new groups, fragment by fragment; nothing becomes visible.

    Raises
    ------
    InvalidInputError
        A value that does not fit the column; files written before it are removed.
    """
    source = _source(snapshot, request)
    written: list[ColumnGroup] = []

    def fill(target: Target) -> tuple[int, FragmentRewrite | None, set[str]]:
        rewrite, needed = _fill_fragment(snapshot, target, source, request, pool)
        written.extend(rewrite.groups if rewrite is not None else ())
        return len(target.positions), rewrite, needed

    rewrites: list[FragmentRewrite] = []
    features: set[str] = set()
    done = 0
    workers = min(_WORKERS, os.cpu_count() or 1) if source.concurrent else 1
    try:
        with closing(in_order(fill, _targets(snapshot, request, pool), workers)) as filled:
            for rows, rewrite, needed in filled:
                done += rows
                if rewrite is not None:
                    rewrites.append(rewrite)
                    features |= needed
                if request.progress is not None:
                    request.progress("fill", done, snapshot.version.row_count)
    except BaseException:
        discard_objects(snapshot.store, [group.path for group in written])
        raise
    return RowEdits(
        field_ids=frozenset({request.column_id}), rewrites=tuple(rewrites), features=frozenset(features)
    )


def complete_fragments(
    snapshot: Snapshot,
    fragments: Sequence[NewFragment],
    columns: Sequence[pa.Field],
    new_id: Callable[[], UUID],
    pool: ReaderPool,
) -> tuple[tuple[NewFragment, ...], frozenset[str]]:
    """Give fragments that are no part of a version yet the computed columns of its schema, as further groups.

    Parameters
    ----------
    fragments
        Written with schemas that the snapshot knows.
    columns
        The computed columns that they lack.

    Raises
    ------
    InvalidInputError
        A value that does not fit a column; files written before it are removed.
    """
    done: list[NewFragment] = []
    features: set[str] = set()
    written: list[ColumnGroup] = []
    try:
        for fragment in fragments:
            placed = fragment.placed(0, first_row_id=0)
            target = Target(fragment=placed, positions=live_positions(placed))
            found: list[FragmentRewrite] = []
            for column in columns:
                request = FillRequest(field=column, values=expression_of(column), is_new=True, new_id=new_id)
                source = _source(snapshot, request)
                rewrite, needed = _fill_fragment(snapshot, target, source, request, pool)
                found += [rewrite] if rewrite is not None else []
                written.extend(rewrite.groups if rewrite is not None else ())
                features |= needed
            done.append(_beside(fragment, found))
    except BaseException:
        discard_objects(snapshot.store, [group.path for group in written])
        raise
    return tuple(done), frozenset(features)


def _beside(fragment: NewFragment, found: Sequence[FragmentRewrite]) -> NewFragment:
    """The fragment with further groups."""
    groups = (group for one in found for group in one.groups)
    statistics = (own for one in found for own in one.statistics)
    return replace(
        fragment, groups=(*fragment.groups, *groups), statistics=(*fragment.statistics, *statistics)
    )


def _source(snapshot: Snapshot, request: FillRequest) -> Source:
    return open_source(
        snapshot,
        request.field,
        request.values,
        request.inputs,
        request.on,
        is_member=bool(request.parents),
    )


def _targets(snapshot: Snapshot, request: FillRequest, pool: ReaderPool) -> Iterator[Target]:
    """The rows that get values, fragment by fragment; only fragments that may hold any are read."""
    table = snapshot.fragments
    wanted = np.ones(len(table), bool)
    if request.fragment_ids is not None:
        wanted = np.isin(table.integers("fragment_id"), np.array(request.fragment_ids, np.uint64))
    predicate = compile_filter(snapshot, request.where)
    covered = np.ones(len(table), bool)
    if predicate is not None:
        covered = predicate.covers(table)
        wanted &= predicate.prune(table) | covered
    for index in np.flatnonzero(wanted).tolist():
        fragment = table.fragment(index)
        if predicate is None or covered[index]:
            positions = live_positions(fragment)
        else:
            windows = list(matching_positions(FragmentReader(snapshot, fragment, pool), predicate))
            positions = np.concatenate(windows) if windows else np.empty(0, np.int64)
        if len(positions):
            yield Target(fragment=fragment, positions=positions)


def _fill_fragment(
    snapshot: Snapshot, target: Target, source: Source, request: FillRequest, pool: ReaderPool
) -> tuple[FragmentRewrite | None, set[str]]:
    """One fragment's new file; None where no row of it gets a value."""
    schema = pa.schema([request.column(snapshot.schema)])
    (plan,) = plan_groups(schema, snapshot.version.properties)
    statistics = StatisticsBuilder(schema)
    gained: list[npt.NDArray[np.int64]] = []
    writer = plan.open_writer(snapshot.store, schema, request.new_id)
    try:
        for column, got in _windows(snapshot, target, source, request, pool):
            batch = pa.RecordBatch.from_arrays([unsliced(column)], schema=schema)
            statistics.update(batch)
            writer.write(batch)
            gained.append(got)
        positions = np.concatenate(gained)
        if len(positions) == 0:
            writer.abort()
            return None, set()
        file = writer.close()
    except BaseException:
        writer.abort()
        raise
    group = ColumnGroup(
        field_ids=(request.column_id,),
        schema_id=snapshot.version.schema_id,
        path=file.path,
        format=file.format,
        size=file.size,
        layout=file.layout,
    )
    rewrite = FragmentRewrite(
        rows=touched(Target(fragment=target.fragment, positions=positions)),
        groups=(group,),
        statistics=tuple(statistics.finish()),
    )
    return rewrite, set(plan.needs(file.format))


def _windows(
    snapshot: Snapshot, target: Target, source: Source, request: FillRequest, pool: ReaderPool
) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
    """The new column window by window: its values at every position, and the positions that got a new one."""
    reader = FragmentReader(snapshot, target.fragment, pool)
    total = target.fragment.row_count
    every = len(target.positions) == total and not source.partial
    whole = request.column(snapshot.schema)
    no_values = request.is_new or every
    own = [whole.name] if request.parents or not no_values else []
    names = list(dict.fromkeys([*own, *sorted(source.inputs)]))
    filler = _Filler(request.field if not request.parents else whole.with_nullable(True))
    for start, batch in reader.scan(names, 0, total, _WINDOW_ROWS):
        low, high = np.searchsorted(target.positions, [start, start + batch.num_rows])
        at = target.positions[low:high] - start
        old = pa.nulls(batch.num_rows, request.field.type) if no_values else _present(batch, whole, request)
        column, got = _merged(batch, old, at, source)
        if request.parents:
            column = with_member(batch.column(whole.name), whole, request.path, column)
        if request.is_new and not request.field.nullable and len(got) < len(at):
            raise InvalidInputError(
                f"column {request.field.name!r} must not be NULL, but {len(at) - len(got)} rows have no value",
                fix="give every row a value, or make the column nullable",
            )
        yield from filler.take(column, got + start)
    yield from filler.rest()


def _present(batch: pa.RecordBatch, whole: pa.Field, request: FillRequest) -> pa.Array:
    """The values that rows have so far."""
    column = batch.column(whole.name)
    return member_of(column, whole, request.path) if request.parents else column


def _merged(
    batch: pa.RecordBatch, old: pa.Array, at: npt.NDArray[np.int64], source: Source
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    if len(at) == 0:
        return old, at
    inputs = batch.select(sorted(source.inputs)) if source.inputs else rows_only(batch.num_rows)
    if len(at) < batch.num_rows:
        mask = np.zeros(batch.num_rows, bool)
        mask[at] = True
        inputs = keep(inputs, mask) if source.inputs else rows_only(len(at))
    values, found = source.run(inputs)
    if found is not None and not found.all():
        at = at[found]
        values = keep(pa.RecordBatch.from_arrays([values], ["value"]), found).column(0)
    return overlaid(old, [(at, values)]), at


class _Filler:
    """Gives positions that stay without a value one where the column forbids NULL: only deleted rows may.

    They repeat a value of the fragment; windows before the first one wait for it.
    """

    def __init__(self, field: pa.Field) -> None:
        self._needed = not field.nullable
        self._value: pa.Array | None = None
        self._waiting: list[tuple[pa.Array, npt.NDArray[np.int64]]] = []

    def take(
        self, column: pa.Array, got: npt.NDArray[np.int64]
    ) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
        """What can be written by now."""
        if self._needed and self._value is None:
            places = np.flatnonzero(np.asarray(column.is_valid().to_numpy(zero_copy_only=False)))
            if len(places) == 0:
                self._waiting.append((column, got))
                return
            self._value = column.slice(int(places[0]), 1)
        yield from self.rest()
        yield self._filled(column) if self._needed and column.null_count else column, got

    def rest(self) -> Iterator[tuple[pa.Array, npt.NDArray[np.int64]]]:
        """Windows that were waiting for a value."""
        for column, got in self._waiting:
            yield (column if self._value is None else self._filled(column)), got
        self._waiting = []

    def _filled(self, column: pa.Array) -> pa.Array:
        assert self._value is not None
        index = np.arange(len(column))
        index[np.asarray(column.is_null().to_numpy(zero_copy_only=False))] = len(column)
        return pa.concat_arrays([column, self._value]).take(pa.array(index))
