"""Writes new values of existing rows: new column files for a fragment, patches, or the rows in a new fragment.

Which of the three is decided per fragment by :mod:`.costs`, unless the table's ``write.update-strategy`` says. Row
ids stay in any way. Memory is bounded by a window of rows, whatever the size of the change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from lake_engines.arrays import keep, overlaid
from lake_engines.changes.costs import Cost, Strategy, compare, row_bytes
from lake_engines.changes.values import I64, NewValues, Target
from lake_engines.files.base import gather, rows_only
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.ingest import conform
from lake_engines.write import write_fragments
from lake_format.clustering import clustering_of
from lake_format.engine import WriteRequest, Written
from lake_format.model import ColumnGroup, Fragment, NewFragment
from lake_format.open_layout import is_open
from lake_format.positions import bitmap_of
from lake_format.properties import text_property
from lake_format.row_edits import (
    FragmentPatch,
    FragmentRewrite,
    RowEdits,
    RowMove,
    RowRequest,
    StrategyUse,
    TouchedRows,
)
from lake_format.schema import field_id, walk_fields
from lake_format.snapshot import Snapshot
from lake_format.statistics import StatisticsBuilder
from lake_format.store.base import Store

__all__ = ["NewRows", "Placement", "place", "touched", "touched_at", "update_strategy", "write_rows"]

_WINDOW_BYTES = 32 << 20
_WINDOW_ROWS = 65_536
_PATCH_ROWS = 16_384
"""A file of patches is closed after so many rows: every patch in it names its layout, which grows with it."""
_NO_LIMIT = str(1 << 62)


@dataclass(slots=True)
class Placement:
    """Files written for new values of existing rows, and what was chosen for how many fragments.

    Attributes
    ----------
    dry
        Nothing is written; what it would cost is counted.
    uses
        Fragments, rows and bytes by strategy.
    """

    dry: bool = False
    rewrites: list[FragmentRewrite] = field(default_factory=list)
    patches: list[FragmentPatch] = field(default_factory=list)
    moves: list[RowMove] = field(default_factory=list)
    features: set[str] = field(default_factory=set)
    uses: dict[Strategy, StrategyUse] = field(default_factory=dict)

    def count(self, strategy: Strategy, *, fragments: int = 0, rows: int = 0, size: int = 0) -> None:
        """Count a use of a strategy in."""
        known = self.uses.get(strategy, StrategyUse())
        self.uses[strategy] = StrategyUse(
            fragments=known.fragments + fragments, rows=known.rows + rows, bytes=known.bytes + size
        )

    def take_in(self, strategy: Strategy, written: Written) -> None:
        """Count files in."""
        self.features |= written.features
        self.count(strategy, size=written.bytes)

    def files(self) -> Iterable[ColumnGroup]:
        """Every file written so far, once."""
        edits = RowEdits(rewrites=tuple(self.rewrites), patches=tuple(self.patches), moves=tuple(self.moves))
        return edits.files()


@dataclass(slots=True)
class NewRows:
    """Rows to be inserted by the change that gives others new values.

    Attributes
    ----------
    batches
        The rows, with the table's schema or some of its columns.
    seen
        Called with them as they are written, in the order they end up in.
    written
        The fragments that hold nothing else, and how many rows there were; None while they are not written.
    """

    batches: Iterator[pa.RecordBatch]
    seen: Callable[[pa.RecordBatch], None] | None = None
    written: Written | None = None


def place(
    snapshot: Snapshot,
    targets: Iterable[Target],
    values: NewValues,
    pool: ReaderPool,
    request: RowRequest,
    into: Placement,
    new: NewRows | None = None,
    *,
    moves: bool = False,
) -> None:
    """Write new values of the targets' rows, fragment by fragment the cheaper way.

    Parameters
    ----------
    into
        What is written is added here as it is written, so that a caller can remove it if a later row fails.
    new
        Rows that are written behind those that move, in the same files, if any row moves and the table has no order
        of its own; else they are left to the caller.
    moves
        All rows move, whatever it costs.
    """
    wanted = "move" if moves else update_strategy(snapshot.version.properties)
    moving: list[Target] = []
    patching: list[Target] = []
    for target in targets:
        cost = compare(target.fragment, snapshot.schema, values.columns, len(target.positions))
        # Rows that are nothing but their key have no column to write anew.
        must = not values.columns or _parts(snapshot, target, values.columns)
        strategy = "move" if must else _chosen(cost, wanted)
        into.count(strategy, fragments=1, rows=len(target.positions))
        if into.dry:
            into.count(strategy, size=cost.of(strategy))
        elif strategy == "rewrite":
            _rewrite(snapshot, target, values, pool, request.new_id, into)
        elif strategy == "move":
            moving.append(target)
        else:
            patching.append(target)
            if sum(len(one.positions) for one in patching) >= _PATCH_ROWS:
                _patch(snapshot, patching, values, pool, request.new_id, into)
                patching = []
    if patching:
        _patch(snapshot, patching, values, pool, request.new_id, into)
    if moving:
        _move(snapshot, moving, values, pool, request, into, new)


def _parts(snapshot: Snapshot, target: Target, columns: Sequence[str]) -> bool:
    """Whether new values of these columns may belong to another partition, so that rows must move (PAR-5)."""
    parted = target.fragment.partition
    if parted is None:
        return False
    sources = snapshot.version.partition_specs[parted.spec_id].source_ids
    return any(field_id(snapshot.schema.field(name)) in sources for name in columns)


def update_strategy(properties: Mapping[str, str]) -> str:
    """The way the table asks for; in the open layout rows move, so that each fragment stays one file."""
    wanted = text_property(properties, "write.update-strategy")
    return "move" if wanted == "auto" and is_open(properties) else wanted


def _chosen(cost: Cost, wanted: str) -> Strategy:
    if wanted == "auto":
        return cost.strategy
    if wanted == "patch" and cost.patch is None:  # reads would suffer (PAT-4)
        return "rewrite"
    chosen: dict[str, Strategy] = {"rewrite": "rewrite", "patch": "patch", "move": "move"}
    return chosen[wanted]


def touched(target: Target) -> TouchedRows:
    """The target's rows, as plans name them."""
    return touched_at(target, np.arange(len(target.positions)))


def write_rows(
    store: Store,
    snapshot: Snapshot,
    batches: Iterator[pa.RecordBatch],
    new_id: object,
    *,
    schema: pa.Schema | None = None,
    whole: bool = False,
    fresh: bool = False,
    seen: Callable[[pa.RecordBatch], None] | None = None,
    lasting: bool = False,
) -> Written:
    """Write batches with the table's schema, or of some of its columns, into new files.

    Parameters
    ----------
    whole
        Everything into one fragment, whatever the table's partitions and limits say.
    fresh
        Rows that nobody has placed yet: they may be brought into the table's order.
    seen
        Called with the rows as they are written, in the order they end up in.
    lasting
        Rows that stay as they are until all are written: they may be kept instead of copied.
    """
    version = snapshot.version
    limits = {"write.fragment-rows": _NO_LIMIT, "write.fragment-bytes": _NO_LIMIT} if whole else {}
    return write_fragments(
        store,
        WriteRequest(
            data=batches,
            schema=version.schema if schema is None else schema,
            schema_id=version.schema_id,
            properties={**version.properties, **limits},
            partitioning=None if whole else version.partitioning,
            clustering=clustering_of(version.properties, version.schema) if fresh else None,
            new_id=new_id,  # type: ignore[arg-type]
        ),
        seen=seen,
        lasting=lasting,
    )


# --- rewriting ------------------------------------------------------------------------------------------------


def _rewrite(
    snapshot: Snapshot,
    target: Target,
    values: NewValues,
    pool: ReaderPool,
    new_id: object,
    into: Placement,
) -> None:
    names = [name for name in snapshot.schema.names if name in values.columns]
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    batches = _rewritten(FragmentReader(snapshot, target.fragment, pool), target, values, names)
    written = write_rows(snapshot.store, snapshot, batches, new_id, schema=schema, whole=True)
    (fragment,) = written.fragments
    into.rewrites.append(
        FragmentRewrite(rows=touched(target), groups=fragment.groups, statistics=fragment.statistics)
    )
    into.take_in("rewrite", written)


def _rewritten(
    reader: FragmentReader, target: Target, values: NewValues, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The columns of a whole fragment with new values at the target's positions."""
    total = target.fragment.row_count
    every = len(target.positions) == total
    read = dict.fromkeys([*([] if every else names), *(values.inputs if every else ())])
    for start, batch in reader.scan(list(read), 0, total, _WINDOW_ROWS):
        low, high = np.searchsorted(target.positions, [start, start + batch.num_rows]).tolist()
        part = target.part(low, high)
        if high == low:
            yield batch.select(names)
            continue
        inputs = batch if every else _inputs(reader, batch, part.positions - start, part, values)
        new = values.compute(inputs.select(list(values.inputs)) if values.inputs else inputs, part)
        yield pa.RecordBatch.from_arrays(
            [
                new[name] if every else overlaid(batch.column(name), [(part.positions - start, new[name])])
                for name in names
            ],
            names,
        )


def _inputs(
    reader: FragmentReader, window: pa.RecordBatch, at: I64, part: Target, values: NewValues
) -> pa.RecordBatch:
    """The inputs of some rows of a window: from the window where it has them, else read by position."""
    missing = [name for name in values.inputs if name not in window.schema.names]
    if not values.inputs:
        return rows_only(len(at))
    if missing:
        return reader.take(part.positions.astype(np.uint64), list(values.inputs))
    chosen = window.select(list(values.inputs))
    if len(at) * 4 < window.num_rows:
        return gather(chosen, at)
    mask = np.zeros(window.num_rows, bool)
    mask[at] = True
    return keep(chosen, mask)


# --- patching -------------------------------------------------------------------------------------------------


def _patch(
    snapshot: Snapshot,
    targets: Sequence[Target],
    values: NewValues,
    pool: ReaderPool,
    new_id: object,
    into: Placement,
) -> None:
    """Write the new values of all targets into one file a column group, and a patch for each target."""
    names = [name for name in snapshot.schema.names if name in values.columns]
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    measured = [_Measured(schema, target.fragment) for target in targets]
    batches = (
        batch
        for target, statistics in zip(targets, measured, strict=True)
        for batch in _patched(snapshot, target, values, pool, statistics)
    )
    written = write_rows(snapshot.store, snapshot, batches, new_id, schema=schema, whole=True)
    (fragment,) = written.fragments
    first = 0
    for target, statistics in zip(targets, measured, strict=True):
        into.patches.append(
            FragmentPatch(
                rows=touched(target),
                files=fragment.groups,
                file_rows=fragment.row_count,
                first_row=first,
                statistics=tuple(statistics.new.finish()),
                replaced=tuple(statistics.old.finish()) if statistics.old else (),
            )
        )
        first += len(target.positions)
    into.take_in("patch", written)


class _Measured:
    """Statistics of the new values of a patch, and of those they replace where that may matter."""

    def __init__(self, schema: pa.Schema, fragment: Fragment) -> None:
        self.schema = schema
        self.new = StatisticsBuilder(schema)
        known = {one.field_id: one for one in fragment.statistics}
        found = [known.get(field_id(one)) for one in walk_fields(schema)]
        plain = all(one is not None and not one.null_count and not one.nan_count for one in found)
        self.old = None if plain else StatisticsBuilder(schema)


def _patched(
    snapshot: Snapshot, target: Target, values: NewValues, pool: ReaderPool, statistics: _Measured
) -> Iterator[pa.RecordBatch]:
    """New values of a target's rows, some at a time."""
    names = statistics.schema.names
    read = list(dict.fromkeys([*values.inputs, *(names if statistics.old else ())]))
    reader = FragmentReader(snapshot, target.fragment, pool)
    step = _step(target.fragment, snapshot.schema)
    for start in range(0, len(target.positions), step):
        part = target.part(start, start + step)
        rows = reader.take(part.positions.astype(np.uint64), read) if read else rows_only(len(part.positions))
        inputs = rows.select(list(values.inputs)) if values.inputs else rows_only(len(part.positions))
        new = values.compute(inputs, part)
        batch = conform(pa.RecordBatch.from_arrays([new[name] for name in names], names), statistics.schema)
        statistics.new.update(batch)
        if statistics.old is not None:
            statistics.old.update(rows.select(names))
        yield batch


# --- moving ---------------------------------------------------------------------------------------------------


def _move(
    snapshot: Snapshot,
    targets: list[Target],
    values: NewValues,
    pool: ReaderPool,
    request: RowRequest,
    into: Placement,
    new: NewRows | None,
) -> None:
    version = snapshot.version
    if version.partitioning or clustering_of(version.properties, version.schema) is not None:
        new = None  # they go where the table's order wants them
    batches = (batch for target in targets for batch in _moved_rows(snapshot, target, values, pool))
    ends = np.cumsum([0, *(len(target.positions) for target in targets)])
    seen = None if new is None or new.seen is None else _after(int(ends[-1]), new.seen)
    both = chain(batches, () if new is None else new.batches)
    written = write_rows(snapshot.store, snapshot, both, request.new_id, seen=seen, lasting=True)
    into.take_in("move", written)
    order = np.arange(written.rows) if written.order is None else written.order
    own: list[NewFragment] = []
    start = 0
    for fragment in written.fragments:
        rows = order[start : start + fragment.row_count]  # ascending: parting rows keeps them in order
        start += fragment.row_count
        cuts = np.searchsorted(rows, ends)
        sources = [
            touched_at(target, rows[low:high] - first)
            for target, first, low, high in zip(targets, ends[:-1], cuts[:-1], cuts[1:], strict=True)
            if low < high
        ]
        if sources:
            fresh = fragment.row_count - int(cuts[-1])
            into.moves.append(RowMove(rows=tuple(sources), fragment=fragment, new_rows=fresh))
        else:
            own.append(fragment)
    if new is not None:
        rows_new = written.rows - int(ends[-1])
        new.written = Written(fragments=tuple(own), features=frozenset(), rows=rows_new, bytes=0)


def _after(rows: int, seen: Callable[[pa.RecordBatch], None]) -> Callable[[pa.RecordBatch], None]:
    """``seen`` for the batches that come after so many rows; none lies across."""
    passed = 0

    def take(batch: pa.RecordBatch) -> None:
        nonlocal passed
        if passed >= rows:
            seen(batch)
        passed += batch.num_rows

    return take


def touched_at(target: Target, rows: I64) -> TouchedRows:
    """Some of the target's rows, by their number among them, as plans name them."""
    positions = bitmap_of(target.positions[rows])
    positions.run_optimize()
    return TouchedRows(fragment_id=target.fragment.fragment_id, positions=positions)


def _moved_rows(
    snapshot: Snapshot, target: Target, values: NewValues, pool: ReaderPool
) -> Iterator[pa.RecordBatch]:
    """Whole rows with their new values, some at a time."""
    schema = snapshot.schema
    step = _step(target.fragment, schema)
    reader = FragmentReader(snapshot, target.fragment, pool)
    for start in range(0, len(target.positions), step):
        part = target.part(start, start + step)
        known = values.unchanged(part)
        kept = [name for name in schema.names if name not in values.columns and name not in known]
        read = list(dict.fromkeys([*kept, *values.inputs]))
        rows = reader.take(part.positions.astype(np.uint64), read) if read else rows_only(len(part.positions))
        inputs = rows.select(list(values.inputs)) if values.inputs else rows_only(len(part.positions))
        columns: Mapping[str, pa.Array] = {
            **known,
            **{name: rows.column(name) for name in kept},
            **values.compute(inputs, part),
        }
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema.names)


def _step(fragment: Fragment, schema: pa.Schema) -> int:
    """Whole rows of a fragment that fit a window."""
    return int(max(256, min(_WINDOW_ROWS, _WINDOW_BYTES // max(1.0, row_bytes(fragment, schema)))))
