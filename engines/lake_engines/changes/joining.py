"""Joins rows handed in with the rows of a table by key, and says what is to happen to each side.

Fragments are read one after another, key columns only (and those conditions need); what is kept is positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyroaring import BitMap64

from lake_engines.changes.lookup import KeyLookup, KeyWindow
from lake_engines.changes.merging import Clause, inserted_rows
from lake_engines.changes.source import SourceKeys, StagedRows, key_text
from lake_engines.changes.values import I64, Target
from lake_engines.files.base import gather, rows_only
from lake_engines.fragment_reader import ReaderPool
from lake_format.model import Fragment
from lake_format.row_edits import DuplicateKeyError, TouchedRows
from lake_format.snapshot import Snapshot

__all__ = ["MergeOutcome", "join", "new_rows", "refuse_taken_keys"]

_CHUNK = 16_384


@dataclass(slots=True)
class MergeOutcome:
    """What a merge does to existing rows, and which source rows have one.

    Parameters
    ----------
    source_rows
        How many rows were handed in.
    """

    source_rows: int
    deletes: list[Target] = field(default_factory=list)
    updates: list[Target] = field(default_factory=list)
    matched: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.matched = np.zeros(self.source_rows, bool)


def join(
    snapshot: Snapshot,
    keys: SourceKeys,
    clauses: Sequence[tuple[str, Clause]],
    source: StagedRows,
    pool: ReaderPool,
    outcome: MergeOutcome,
) -> None:
    """Decide for every row of the table; fragments that cannot hold a key are read only if some clause wants them."""
    lookup = KeyLookup(keys)
    everything = any(when == "not matched by source" for when, _ in clauses)
    reads = sorted({name for _, clause in clauses for name in clause.reads})
    whole = list(snapshot.fragments.fragments()) if everything else None
    found = lookup.sweep(snapshot, pool, reads, fragments=whole)
    for candidates, group in groupby(found, key=itemgetter(0)):
        decided = _Decided(candidates.fragment)
        for _, window in group:
            outcome.matched[window.origin] = True
            decided.take_in(window, clauses, source, everything=everything)
        outcome.deletes += decided.targets("delete")
        outcome.updates += decided.targets("update")


class _Decided:
    """The rows of one fragment that clauses apply to."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment
        self._parts: list[tuple[str, I64, I64, I64]] = []  # action, positions, origins, clauses

    def take_in(
        self,
        window: KeyWindow,
        clauses: Sequence[tuple[str, Clause]],
        source: StagedRows,
        *,
        everything: bool,
    ) -> None:
        self._decide("matched", window, window.rows, window.origin, clauses, source)
        if everything:
            rest = window.live.copy()
            rest[window.rows] = False
            self._decide("not matched by source", window, np.flatnonzero(rest), None, clauses, source)

    def _decide(
        self,
        situation: str,
        window: KeyWindow,
        rows: I64,
        origin: I64 | None,
        clauses: Sequence[tuple[str, Clause]],
        source: StagedRows,
    ) -> None:
        for number, (when, clause) in enumerate(clauses):
            if when != situation or len(rows) == 0:
                continue
            holds = np.ones(len(rows), bool)
            if clause.condition is not None:
                names = sorted(clause.reads)
                batch = gather(window.batch.select(names), rows) if names else rows_only(len(rows))
                holds = clause.holds(batch, source, origin)
            chosen = np.full(int(holds.sum()), -1, np.int64) if origin is None else origin[holds]
            self._parts.append(
                (clause.action, window.positions[rows[holds]], chosen, np.full(len(chosen), number, np.int64))
            )
            rows = rows[~holds]
            origin = None if origin is None else origin[~holds]

    def targets(self, action: str) -> list[Target]:
        parts = [part[1:] for part in self._parts if part[0] == action and len(part[1])]
        if not parts:
            return []
        positions, origin, clause = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(positions, kind="stable")
        return [
            Target(
                fragment=self._fragment,
                positions=positions[order],
                origin=origin[order],
                clause=clause[order],
            )
        ]


def new_rows(
    snapshot: Snapshot,
    keys: SourceKeys,
    clauses: Sequence[tuple[str, Clause]],
    source: StagedRows,
    outcome: MergeOutcome,
    key: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    """The rows to insert: source rows whose key no row of the table has, in the order they were handed in.

    Parameters
    ----------
    key
        The table's key, whose values an insert takes from the source where it says nothing of them.
    """
    inserts = [clause for when, clause in clauses if when == "not matched"]
    unmatched = np.sort(keys.rows[~outcome.matched[keys.rows]])
    for start in range(0, len(unmatched) if inserts else 0, _CHUNK):
        rows = unmatched[start : start + _CHUNK]
        for clause in inserts:
            holds = clause.holds(rows_only(len(rows)), source, rows)
            chosen, rows = rows[holds], rows[~holds]
            if len(chosen):
                batch = inserted_rows(clause, snapshot.schema, source, chosen)
                for name in key:
                    if name not in batch.schema.names:
                        batch = batch.append_column(name, source.take(chosen, [name]).column(0))
                yield batch


def refuse_taken_keys(
    snapshot: Snapshot,
    keys: SourceKeys,
    deleted: Sequence[TouchedRows],
    pool: ReaderPool,
    fix: str = "use upsert() to replace rows that are there",
) -> None:
    """Raise DuplicateKeyError if a row of the table, other than those to be deleted, has one of the keys."""
    lookup = KeyLookup(keys)
    going = {rows.fragment_id: rows.positions for rows in deleted}
    for candidates, window in lookup.sweep(snapshot, pool):
        gone = going.get(candidates.fragment.fragment_id, BitMap64())
        for row, origin in zip(window.positions[window.rows].tolist(), window.origin.tolist(), strict=True):
            if row not in gone:
                raise DuplicateKeyError(
                    f"the key {key_text(keys.columns, keys.parts, origin)} is in the table already",
                    fix=fix,
                )
