"""Carries new values to where their rows are now: rewritten files and moved rows that a commit found overtaken.

Another commit replaced the fragment or changed the same rows in other columns meanwhile (spec/identity.md, IDN-12).
No expression is evaluated again: the values come from the files that were written for the first attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from uuid import UUID

import numpy as np
import pyarrow as pa

from lake_engines.changes.placing import Placement, place
from lake_engines.changes.values import I64, Target
from lake_engines.files.base import gather
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
    place(
        snapshot, _targets(snapshot, carried), _Carried(snapshot, carried, columns, pool), pool, request, into
    )
    return RowEdits(
        field_ids=field_ids,
        rewrites=tuple(into.rewrites),
        patches=tuple(into.patches),
        moves=tuple(into.moves),
        features=frozenset(into.features),
    )


def _targets(snapshot: Snapshot, carried: Sequence[CarriedRows]) -> Iterator[Target]:
    """Where the rows are, one target a fragment; their clause is the number of the files they come from."""
    owners, positions = snapshot.locations.locate(np.concatenate([rows.row_ids for rows in carried]))
    origin = np.concatenate([rows.positions for rows in carried])
    clause = np.repeat(np.arange(len(carried)), [len(rows.positions) for rows in carried])
    if (owners < 0).any():
        raise CorruptionError("a row to be changed is not live")
    for owner in np.unique(owners).tolist():
        at = np.flatnonzero(owners == owner)
        order = at[np.argsort(positions[at], kind="stable")]
        yield Target(
            fragment=snapshot.fragments.fragment(owner),
            positions=positions[order],
            origin=origin[order],
            clause=clause[order],
        )


class _Carried:
    """Values that lie in files: a row's clause says in which, its origin at which position."""

    inputs: tuple[str, ...] = ()

    def __init__(
        self,
        snapshot: Snapshot,
        carried: Sequence[CarriedRows],
        columns: tuple[str, ...],
        pool: ReaderPool,
    ) -> None:
        self.columns = columns
        self._readers = [
            FragmentReader(
                snapshot,
                Fragment(
                    fragment_id=number,
                    row_count=rows.row_count,
                    first_row_id=0,
                    groups=rows.groups,
                    patches=rows.patches,
                    statistics=(),
                ),
                pool,
            )
            for number, rows in enumerate(carried)
        ]

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """Nothing."""
        return {}

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """The values, read from the files."""
        assert target.origin is not None
        assert target.clause is not None
        parts, order = [], []
        for clause in np.unique(target.clause).tolist():
            at = np.flatnonzero(target.clause == clause)
            distinct, inverse = np.unique(target.origin[at], return_inverse=True)
            found = self._readers[clause].take(distinct.astype(np.uint64), list(self.columns))
            parts.append(gather(found, inverse.astype(np.int64)))
            order.append(at)
        merged = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        back: I64 = np.empty(len(target.positions), np.int64)
        back[np.concatenate(order)] = np.arange(len(back))
        return dict(zip(self.columns, gather(merged, back).columns, strict=True))
