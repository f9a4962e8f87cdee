"""The live rows of a snapshot that a filter lets through, fragment by fragment; only its columns are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lake_engines.changes.values import I64, Target
from lake_engines.filters import compile_filter
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.predicate import BoundPredicate
from lake_engines.scan import matching_positions
from lake_format.model import Fragment
from lake_format.positions import deleted_positions
from lake_format.schema import ROW_ID, field_id
from lake_format.snapshot import Snapshot

__all__ = ["fields_of", "live_positions", "matching_rows"]


def matching_rows(snapshot: Snapshot, where: object | None, pool: ReaderPool) -> Iterator[Target]:
    """The rows that match, in fragment order; fragments that statistics decide are not read."""
    predicate = compile_filter(snapshot, where)
    table = snapshot.fragments
    if predicate is None:
        yield from (Target(fragment=one, positions=live_positions(one)) for one in table.fragments())
        return
    covered = predicate.covers(table)
    candidates = predicate.prune(table) | covered
    for index in np.flatnonzero(candidates).tolist():
        fragment = table.fragment(index)
        positions = (
            live_positions(fragment) if covered[index] else _matching(snapshot, fragment, predicate, pool)
        )
        if len(positions):
            yield Target(fragment=fragment, positions=positions)


def _matching(snapshot: Snapshot, fragment: Fragment, predicate: BoundPredicate, pool: ReaderPool) -> I64:
    windows = list(matching_positions(FragmentReader(snapshot, fragment, pool), predicate))
    return np.concatenate(windows) if windows else np.empty(0, np.int64)


def live_positions(fragment: Fragment) -> I64:
    """Positions of a fragment that are not deleted, ascending."""
    if fragment.deletions is None and not fragment.deleted_count:
        return np.arange(fragment.row_count)
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    return np.flatnonzero(live)


def fields_of(snapshot: Snapshot, where: object | None) -> frozenset[int]:
    """Field ids of the columns a filter reads."""
    predicate = compile_filter(snapshot, where)
    names = predicate.columns if predicate is not None else frozenset()
    return frozenset(field_id(snapshot.schema.field(name)) for name in names if name != ROW_ID)
