"""Plans a change of rows against a snapshot: the rows concerned, the files with their new values, and the record.

Dispatch and bookkeeping; how rows are found and written is the business of the modules below. If planning fails,
files written so far are removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lake_engines.changes.assignments import Assignments, assign
from lake_engines.changes.computing import completed, recomputed, refuse_given
from lake_engines.changes.costs import Strategy
from lake_engines.changes.joining import MergeOutcome, join, new_rows, refuse_taken_keys
from lake_engines.changes.matching import fields_of, matching_rows
from lake_engines.changes.merging import Clause, MergeValues, prepare
from lake_engines.changes.placing import NewRows, Placement, place, touched, write_rows
from lake_engines.changes.rekeying import rekey
from lake_engines.changes.source import SourceKeys, StagedRows
from lake_engines.changes.values import NewValues, Target
from lake_engines.changes.whole_rows import WholeRows, are_whole
from lake_engines.files.base import batch_bytes
from lake_engines.fragment_reader import ReaderPool
from lake_engines.ingest import as_batches
from lake_engines.keys.merging import merge_runs
from lake_engines.keys.run_writer import KeyCollector
from lake_engines.keys.tiers import overdue
from lake_format.engine import Written
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.key_index import KeyRunsMerged, NewKeyRun
from lake_format.keys import encode_key_hashes, key_columns
from lake_format.model import ColumnGroup
from lake_format.operation_record import OperationRecord
from lake_format.paths import keys_path
from lake_format.positions import positions_of
from lake_format.row_edits import (
    RowEdits,
    RowPlan,
    RowRequest,
    RowsPlanned,
    StrategyUse,
    TouchedRows,
    row_runs,
    strategy_text,
)
from lake_format.row_ids import U64
from lake_format.schema import field_id, require_column
from lake_format.snapshot import Snapshot

__all__ = ["explain_rows", "plan_rows"]

_INLINE_KEYS = 512
"""A record holds so many key hashes itself; more lie in an object of their own."""


@dataclass(slots=True)
class _Work:
    """A plan in the making."""

    deletes: list[TouchedRows] = field(default_factory=list)
    placement: Placement = field(default_factory=Placement)
    columns: tuple[str, ...] = ()
    reads: set[int] = field(default_factory=set)
    fresh: Written | None = None
    keys: U64 | None = None
    keys_known: bool = True
    key_object: str = ""
    key_runs: list[NewKeyRun] = field(default_factory=list)
    merged_runs: KeyRunsMerged | None = None

    def files(self) -> list[ColumnGroup]:
        found = [*self.placement.files()]
        return found + [group for one in (self.fresh.fragments if self.fresh else ()) for group in one.groups]

    def paths(self) -> list[str]:
        """Every object written so far."""
        runs = [run.path for run in self.key_runs if run.path]
        return [
            *(group.path for group in self.files()),
            *runs,
            *([self.key_object] if self.key_object else []),
        ]


def plan_rows(snapshot: Snapshot, request: RowRequest, pool: ReaderPool) -> RowPlan:
    """Find the rows, write the files, and say what was touched.

    Raises
    ------
    InvalidInputError
        A filter, column or value that does not fit; a NULL key; :class:`DuplicateKeyError`.
    """
    work = _Work()
    planner = _PLANNERS[request.kind]
    try:
        planner(snapshot, request, pool, work)
        _tidy_key_index(snapshot, request, pool, work)
        return _finished(snapshot, request, work)
    except BaseException:
        for path in work.paths():
            with suppress(LakeError):  # what cannot be removed is garbage; the first error is the news
                snapshot.store.delete(path)
        raise


def explain_rows(snapshot: Snapshot, request: RowRequest, pool: ReaderPool) -> RowsPlanned:
    """What a change would do and cost, without writing.

    Raises
    ------
    InvalidInputError
        As :func:`plan_rows`, as far as no value has to be computed to find out.
    """
    work = _Work(placement=Placement(dry=True))
    _PLANNERS[request.kind](snapshot, request, pool, work)
    uses = work.placement.uses
    return RowsPlanned(
        version=snapshot.version.version,
        deleted=sum(len(rows) for rows in work.deletes),
        updated=sum(use.rows for use in uses.values()),
        inserted=work.fresh.rows if work.fresh else 0,
        fragments=len(snapshot.fragments),
        strategies=uses,
        bytes=sum(use.bytes for use in uses.values()) + (work.fresh.bytes if work.fresh else 0),
    )


# --- one planner an operation ---------------------------------------------------------------------------------


def _delete(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    work.reads |= fields_of(snapshot, request.where)
    work.deletes += [touched(target) for target in matching_rows(snapshot, request.where, pool)]


def _update(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    assignments = _assignments(snapshot, request)
    work.reads |= fields_of(snapshot, request.where)
    targets: Iterable[Target] = matching_rows(snapshot, request.where, pool)
    values: NewValues = assignments
    key = key_columns(snapshot.version)
    if not set(key).isdisjoint(assignments.columns):
        values = rekeyed = rekey(snapshot, targets, assignments, key, pool)
        targets = rekeyed.targets
        work.keys = rekeyed.keys.distinct_hashes
        work.reads |= _ids(snapshot, key) | _ids(snapshot, assignments.inputs)
    values = recomputed(snapshot.schema, values)
    work.columns = values.columns
    work.reads |= _ids(snapshot, values.inputs)
    place(snapshot, _told(targets, request), values, pool, request, work.placement)


def _assignments(snapshot: Snapshot, request: RowRequest) -> Assignments:
    if not request.values:
        raise InvalidInputError("an update must set at least one column", fix='update({"price": 1.5})')
    refuse_given(snapshot.schema, request.values)
    return Assignments(assign(snapshot.schema, request.values, request.inputs))


def _merge(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    source: StagedRows = request.source
    key = key_columns(snapshot.version)
    if key and set(request.on) != set(key):
        raise UnsupportedError(
            f"a table with the key {', '.join(key)} is merged on its key, not on {', '.join(request.on)}"
        )
    on = key or request.on
    work.keys_known = bool(key)
    work.reads |= _ids(snapshot, on)
    keys = _source_keys(snapshot, source, on, request)
    if keys is None:
        if not any(clause.when == "not matched by source" for clause in request.clauses):
            return
        keys = SourceKeys(StagedRows(_no_rows(snapshot, on), snapshot.schema), on)
    if key:
        work.keys = keys.distinct_hashes
    clauses = prepare(request.clauses, snapshot.schema, source, on)
    for _, clause in clauses:
        _refuse_merged_key(snapshot, clause.action, clause.columns if clause.values is not None else ())
        work.reads |= _ids(snapshot, clause.reads)
    merged = MergeValues(snapshot.schema, [clause for _, clause in clauses], source, on)
    values = recomputed(snapshot.schema, merged)
    work.columns = values.columns
    work.reads |= _ids(snapshot, values.inputs)
    outcome = MergeOutcome(len(source))
    whole = are_whole(snapshot, source, keys, clauses, values.columns)
    if whole and not work.placement.dry:
        _upsert_whole(snapshot, request, pool, work, keys, clauses, outcome)
        return
    join(snapshot, keys, clauses, source, pool, outcome)
    work.deletes += [touched(target) for target in outcome.deletes]
    inserts = new_rows(snapshot, keys, clauses, source, outcome, key)
    collector = _collector(snapshot, request, work)
    new = _new(snapshot, inserts, request, collector)
    with _storing_keys(snapshot, request, work):
        targets = _told(outcome.updates, request)
        place(snapshot, targets, values, pool, request, work.placement, new, moves=whole)
        _write_fresh(snapshot, request, work, new, collector)


def _upsert_whole(
    snapshot: Snapshot,
    request: RowRequest,
    pool: ReaderPool,
    work: _Work,
    keys: SourceKeys,
    clauses: Sequence[tuple[str, Clause]],
    outcome: MergeOutcome,
) -> None:
    """Write the rows handed in as they are, while the rows they replace are looked for."""
    source: StagedRows = request.source
    collector = _collector(snapshot, request, work)
    with WholeRows(snapshot, source, request) as rows, _storing_keys(snapshot, request, work):
        join(snapshot, keys, clauses, source, pool, outcome)
        work.fresh, new = rows.land(_told(outcome.updates, request), work.placement)
        if collector is not None and len(new):
            collector.take(source.take(new, keys.columns))
            collector.finish()
        if request.progress is not None and len(new):
            request.progress(f"{request.kind}: new rows", len(new), 0)


def _overwrite(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    work.reads |= fields_of(snapshot, request.where)
    work.deletes += [touched(target) for target in matching_rows(snapshot, request.where, pool)]
    _append(snapshot, request, pool, work)


def _append(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    source: StagedRows = request.source
    key = key_columns(snapshot.version)
    if key and len(source):
        keys = _source_keys(snapshot, source, key, request)
        assert keys is not None
        work.keys = keys.distinct_hashes
        refuse_taken_keys(snapshot, keys, work.deletes, pool)
    collector = _collector(snapshot, request, work)
    new = _new(snapshot, source.batches(), request, collector)
    with _storing_keys(snapshot, request, work):
        _write_fresh(snapshot, request, work, new, collector)


_PLANNERS: dict[str, Callable[[Snapshot, RowRequest, ReaderPool, _Work], None]] = {
    "append": _append,
    "delete": _delete,
    "update": _update,
    "upsert": _merge,
    "merge": _merge,
    "overwrite": _overwrite,
}


def _source_keys(
    snapshot: Snapshot, source: StagedRows, on: Sequence[str], request: RowRequest
) -> SourceKeys | None:
    if len(source) == 0:
        return None
    for name in on:
        require_column(snapshot.schema, name)
        if name not in source.columns:
            raise InvalidInputError(
                f"the rows handed in have no column {name!r}, which identifies rows", fix="add it"
            )
    return SourceKeys(source, on, request.order_by)


def _no_rows(snapshot: Snapshot, on: Sequence[str]) -> pa.Table:
    return pa.table({name: pa.array([], snapshot.schema.field(name).type) for name in on})


@contextmanager
def _storing_keys(snapshot: Snapshot, request: RowRequest, work: _Work) -> Iterator[None]:
    """Hashes of many keys go to an object of their own, while rows are written."""
    if work.keys is None or len(work.keys) <= _INLINE_KEYS or work.placement.dry:
        yield
        return
    work.key_object = keys_path(request.new_id())
    with ThreadPoolExecutor(1, thread_name_prefix="lake-keys") as threads:
        stored = threads.submit(snapshot.store.create, work.key_object, encode_key_hashes(work.keys))
        yield
        stored.result()


def _collector(snapshot: Snapshot, request: RowRequest, work: _Work) -> KeyCollector | None:
    """What gathers the keys of new rows for the table's key index."""
    index = snapshot.version.key_index
    if index is None or work.placement.dry:
        return None
    names = key_columns(snapshot.version)
    return KeyCollector(snapshot.store, names, index.field_ids, request.new_id, work.key_runs)


def _new(
    snapshot: Snapshot,
    batches: Iterator[pa.RecordBatch],
    request: RowRequest,
    collector: KeyCollector | None,
) -> NewRows:
    """Rows to be inserted, whole: with the columns that are computed."""
    whole = as_batches(completed(_reported(batches, request), snapshot.schema))
    return NewRows(whole, None if collector is None else collector.take)


def _write_fresh(
    snapshot: Snapshot, request: RowRequest, work: _Work, new: NewRows, collector: KeyCollector | None
) -> None:
    """Write new rows that were not written along with others, and the keys of all."""
    if work.placement.dry:
        sizes = [(batch.num_rows, batch_bytes(batch)) for batch in new.batches]
        rows, size = sum(one for one, _ in sizes), sum(one for _, one in sizes)
        work.fresh = Written(fragments=(), features=frozenset(), rows=rows, bytes=size)
        return
    written = new.written
    if written is None:
        written = write_rows(snapshot.store, snapshot, new.batches, request.new_id, fresh=True, seen=new.seen)
    if written.rows:
        work.fresh = written
    if collector is not None:
        collector.finish()


def _tidy_key_index(snapshot: Snapshot, request: RowRequest, pool: ReaderPool, work: _Work) -> None:
    """Put runs of the key index together where there are many, as part of a commit that adds one more."""
    index = snapshot.version.key_index
    rekeys = not set(key_columns(snapshot.version)).isdisjoint(work.columns)  # what was merged would be wrong
    if index is not None and (work.key_runs or index.stale) and not rekeys:
        runs, refresh = overdue(index)
        if runs or refresh:
            work.merged_runs = merge_runs(snapshot, index, runs, pool, request.new_id, refresh=refresh)


def _reported(batches: Iterator[pa.RecordBatch], request: RowRequest) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in batches:
        yield batch
        done += batch.num_rows
        if request.progress is not None:
            request.progress(f"{request.kind}: new rows", done, 0)


def _told(targets: Iterable[Target], request: RowRequest) -> Iterator[Target]:
    done = 0
    for target in targets:
        yield target
        done += len(target.positions)
        if request.progress is not None:
            request.progress(f"{request.kind}: changed rows", done, 0)


def _refuse_merged_key(snapshot: Snapshot, action: str, columns: Sequence[str]) -> None:
    for name in sorted(set(columns) & set(key_columns(snapshot.version))):
        raise UnsupportedError(
            f"column {name!r} is part of the table's key: a merge takes it from the rows handed in",
            fix="leave it out of the values" if action == "insert" else "update() gives rows other keys",
        )


# --- the plan -------------------------------------------------------------------------------------------------


def _finished(snapshot: Snapshot, request: RowRequest, work: _Work) -> RowPlan:
    placement, fresh = work.placement, work.fresh
    edits = RowEdits(
        field_ids=_ids(snapshot, work.columns),
        deletes=tuple(work.deletes),
        rewrites=tuple(placement.rewrites),
        patches=tuple(placement.patches),
        moves=tuple(placement.moves),
        fresh=fresh.fragments if fresh else (),
        features=frozenset(placement.features | (fresh.features if fresh else frozenset())),
        key_runs=tuple(work.key_runs),
        merged_runs=work.merged_runs,
    )
    size = sum(use.bytes for use in placement.uses.values()) + (fresh.bytes if fresh else 0)
    return RowPlan(
        base=snapshot,
        edits=edits,
        record=_record(snapshot, request, work, edits),
        summary=_summary(edits, fresh.rows if fresh else 0, placement.uses, size),
        uses=placement.uses,
    )


def _record(snapshot: Snapshot, request: RowRequest, work: _Work, edits: RowEdits) -> OperationRecord:
    ids = _RowIds(snapshot)
    hashes: Sequence[int] | None = () if work.keys_known else None
    if work.keys is not None and len(work.keys) > _INLINE_KEYS:
        if not work.key_object:
            with _storing_keys(snapshot, request, work):
                pass
        hashes = None
    elif work.keys is not None:
        hashes = tuple(work.keys.tolist())
    moved_from = {rows.fragment_id for move in edits.moves for rows in move.rows}
    return OperationRecord(
        kind=request.kind,
        fields_read=frozenset(work.reads),
        fields_written=edits.field_ids,
        rows_added=work.fresh.rows if work.fresh else 0,
        rows_deleted=row_runs([ids.of(rows) for rows in edits.deletes]),
        rows_updated=row_runs([ids.of(rows) for rows in edits.updated()]),
        fragments_masked=frozenset({rows.fragment_id for rows in edits.deletes} | moved_from),
        fragments_rewritten=frozenset(
            rows.fragment_id
            for rows in (*(one.rows for one in edits.rewrites), *(one.rows for one in edits.patches))
        ),
        key_hashes=hashes,
        key_hashes_at=work.key_object,
    )


class _RowIds:
    def __init__(self, snapshot: Snapshot) -> None:
        self._fragments = snapshot.fragments
        self._ids = snapshot.fragments.integers("fragment_id")

    def of(self, rows: TouchedRows) -> U64:
        at = int(np.searchsorted(self._ids, np.uint64(rows.fragment_id)))
        fragment = self._fragments.fragment(at)
        positions = positions_of(rows.positions)
        if fragment.first_row_id is not None:
            return positions.astype(np.uint64) + np.uint64(fragment.first_row_id)
        return fragment.row_ids()[positions]


def _summary(
    edits: RowEdits, inserted: int, uses: Mapping[Strategy, StrategyUse], size: int
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "rows_deleted": sum(len(rows) for rows in edits.deletes),
        "rows_updated": sum(use.rows for use in uses.values()),
        "rows_inserted": inserted,
        "bytes": size,
    }
    if uses:
        facts |= {
            "strategy": strategy_text(uses),
            "fragments_rewritten": len(edits.rewrites),
            "fragments_patched": len(edits.patches),
            "rows_moved": sum(len(rows) for move in edits.moves for rows in move.rows),
        }
    return facts


def _ids(snapshot: Snapshot, columns: Iterable[str]) -> frozenset[int]:
    schema = snapshot.schema
    return frozenset(field_id(schema.field(name)) for name in columns if name in schema.names)
