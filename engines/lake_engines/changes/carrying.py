"""Carries new values to where their rows are now: rewritten files and moved rows that a commit found overtaken.

Another commit replaced the fragment or changed the same rows in other columns meanwhile (spec/identity.md, IDN-12).
No expression is evaluated again: the values come from the files that were written for the first attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import numpy as np
import pyarrow as pa

from lake_engines.changes.placing import Placement, place
from lake_engines.changes.values import I64, Target
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_format.errors import CorruptionError
from lake_format.model import Fragment
from lake_format.row_edits import CarriedRows, RowEdits, RowRequest
from lake_format.schema import field_id
from lake_format.snapshot import Snapshot

__all__ = ["carry_rows"]


def carry_rows(
    snapshot: Snapshot,
    carried: Sequence[CarriedRows],
    field_ids: frozenset[int],
    new_id: Callable[[], UUID],
    pool: ReaderPool,
) -> RowEdits:
    """Write values of ``field_ids`` anew for rows that are live in ``snapshot``.

    Columns that the snapshot no longer has are left out.
    """
    columns = tuple(field.name for field in snapshot.schema if field_id(field) in field_ids)
    if not columns:
        return RowEdits(field_ids=field_ids)
    into = Placement()
    request = RowRequest(kind="update", new_id=new_id)
    for rows in carried:
        place(snapshot, _targets(snapshot, rows), _Carried(snapshot, rows, columns, pool), pool, request, into)
    return RowEdits(
        field_ids=field_ids,
        rewrites=tuple(into.rewrites),
        moves=tuple(into.moves),
        features=frozenset(into.features),
    )


def _targets(snapshot: Snapshot, rows: CarriedRows) -> list[Target]:
    owners, positions = snapshot.locations.locate(rows.row_ids)
    if (owners < 0).any():
        raise CorruptionError("a row to be changed is not live")
    targets = []
    for owner in np.unique(owners).tolist():
        at = np.flatnonzero(owners == owner)
        order = at[np.argsort(positions[at], kind="stable")]
        targets.append(
            Target(
                fragment=snapshot.fragments.fragment(owner),
                positions=positions[order],
                origin=rows.positions[order],
            )
        )
    return targets


class _Carried:
    """Values that lie in files: the origin of a row is its position there."""

    inputs: tuple[str, ...] = ()

    def __init__(
        self, snapshot: Snapshot, rows: CarriedRows, columns: tuple[str, ...], pool: ReaderPool
    ) -> None:
        self.columns = columns
        files = Fragment(
            fragment_id=0, row_count=rows.row_count, first_row_id=0, groups=rows.groups, statistics=()
        )
        self._reader = FragmentReader(snapshot, files, pool)

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        assert target.origin is not None
        distinct, inverse = np.unique(target.origin, return_inverse=True)
        found = self._reader.take(distinct.astype(np.uint64), list(self.columns))
        order: I64 = inverse.astype(np.int64)
        if (order[1:] > order[:-1]).all():
            return dict(zip(self.columns, found.columns, strict=True))
        return {name: column.take(pa.array(order)) for name, column in zip(self.columns, found.columns, strict=True)}
