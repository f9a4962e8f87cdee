"""What a change of rows is asked for as, and what an engine prepared for it: files and the rows they concern.

Plain values between the table, which commits, and the engine, which reads and writes rows. Rows are named by
fragment and position *of the base snapshot*; :mod:`lake_format.row_changes` finds them again in a later version.
No I/O here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_format.errors import InvalidInputError
from lake_format.key_index import KeyRunsMerged, NewKeyRun
from lake_format.model import ColumnGroup, ColumnPatch, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.row_ids import U64
from lake_format.row_runs import RowRuns
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics

__all__ = [
    "MAX_RUNS",
    "CarriedRows",
    "DuplicateKeyError",
    "FragmentPatch",
    "FragmentRewrite",
    "MergeClause",
    "RowEdits",
    "RowMove",
    "RowPlan",
    "RowRequest",
    "RowsPlanned",
    "StrategyUse",
    "TouchedRows",
    "row_runs",
    "strategy_text",
]

MAX_RUNS = 32_768
"""Row sets in a record are made coarser beyond so many runs (CON-3)."""
_Value = TypeVar("_Value", bound=np.generic)


class DuplicateKeyError(InvalidInputError):
    """A key occurs twice in the rows handed in, or is in the table already; the message names it."""

    code = "duplicate_key"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeClause:
    """One WHEN of a merge: of the clauses for a row's situation the first whose condition holds is carried out.

    Attributes
    ----------
    when
        ``matched`` (a source row has the row's key), ``not matched`` (a source row whose key no row has) or
        ``not matched by source`` (a row whose key no source row has).
    action
        ``update`` or ``delete`` for rows of the table, ``insert`` for source rows.
    condition
        SQL or a pyarrow expression; None holds always. Source columns are ``source.<name>``.
    values
        New values by column; None takes every source column by name.
    """

    when: Literal["matched", "not matched", "not matched by source"]
    action: Literal["update", "delete", "insert"]
    condition: object | None = None
    values: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRequest:
    """A change of rows: what is wanted, in the terms of whoever asks, so that it can be planned anew.

    Attributes
    ----------
    kind
        The operation kind of the conflict matrix.
    where
        The rows a delete, update or overwrite is about; None is all.
    values
        New values by column, for an update.
    inputs
        Columns that Python functions among ``values`` are given; None is all.
    source
        Rows handed in, as :meth:`Engine.stage` returned them.
    on, order_by
        Columns of the source that identify a row; the one whose greatest value decides between equal keys.
    clauses
        Of a merge or upsert, in order.
    """

    kind: Literal["append", "delete", "update", "upsert", "merge", "overwrite"]
    where: object | None = None
    values: Mapping[str, object] = field(default_factory=dict)
    inputs: tuple[str, ...] | None = None
    source: Any = None
    on: tuple[str, ...] = ()
    order_by: str | None = None
    clauses: tuple[MergeClause, ...] = ()
    progress: Callable[[str, int, int], None] | None = None
    new_id: Callable[[], UUID] = uuid4


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchedRows:
    """Live rows of one fragment of the base, by position."""

    fragment_id: int
    positions: BitMap64

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentRewrite:
    """New files for some columns of a fragment, one value a position.

    ``rows`` are those that got new values; at the others the files repeat what was there.
    """

    rows: TouchedRows
    groups: tuple[ColumnGroup, ...]
    statistics: tuple[ColumnStatistics, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentPatch:
    """New values of some columns for some rows of a fragment, in files that other fragments' patches share.

    Attributes
    ----------
    rows
        The rows; their values lie in consecutive rows of the files, in order of position.
    files, file_rows, first_row
        The files, their number of rows, and which of them is the first of this fragment.
    statistics
        Of the new values.
    replaced
        Of the values they replace; only counts matter. Empty if none of those is NULL or NaN.
    """

    rows: TouchedRows
    files: tuple[ColumnGroup, ...]
    file_rows: int
    first_row: int
    statistics: tuple[ColumnStatistics, ...]
    replaced: tuple[ColumnStatistics, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMove:
    """A new fragment of existing rows, those of ``rows``, and maybe of rows that are new to the table.

    Attributes
    ----------
    new_rows
        How many are new.
    places
        Where in the fragment each existing row is, the rows of ``rows`` one after another, positions ascending in
        each; shape ``(n,)``. None: in front of the new ones, in this order.
    """

    rows: tuple[TouchedRows, ...]
    fragment: NewFragment
    new_rows: int = 0
    places: npt.NDArray[np.int64] | None = None

    def laid_out(self, existing: npt.NDArray[_Value], new: npt.NDArray[_Value]) -> npt.NDArray[_Value]:
        """Values of the existing and of the new rows, each in order, as the rows lie in the fragment."""
        if self.places is None:
            return np.concatenate([existing, new])
        is_new = np.ones(len(existing) + len(new), bool)
        is_new[self.places] = False
        values = np.empty(len(is_new), existing.dtype)
        values[self.places], values[is_new] = existing, new
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyUse:
    """What one way to write new values was used for: in how many fragments, for how many rows, how many bytes."""

    fragments: int = 0
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEdits:
    """The files of a change and the rows of the base that it concerns.

    Attributes
    ----------
    field_ids
        Top-level fields that the updated rows got new values of.
    deletes, rewrites, patches, moves, fresh
        Rows that go; fragments with new column files; fragments with values laid over some of their rows; rows that
        change their place; new rows.
    features
        What a reader must know to read the files.
    key_runs
        Runs of the key index over the new rows, in order.
    merged_runs
        A run to be put in place of runs of the base, as there were many.
    """

    field_ids: frozenset[int] = frozenset()
    deletes: tuple[TouchedRows, ...] = ()
    rewrites: tuple[FragmentRewrite, ...] = ()
    patches: tuple[FragmentPatch, ...] = ()
    moves: tuple[RowMove, ...] = ()
    fresh: tuple[NewFragment, ...] = ()
    features: frozenset[str] = frozenset()
    key_runs: tuple[NewKeyRun, ...] = ()
    merged_runs: KeyRunsMerged | None = None

    def key_files(self) -> list[str]:
        """Every file of the key index written."""
        runs = [*self.key_runs]
        if self.merged_runs is not None and self.merged_runs.run is not None:
            runs.append(self.merged_runs.run.run)
        return [run.path for run in runs if run.path]

    def files(self) -> Iterator[ColumnGroup]:
        """Every file written, once."""
        for rewrite in self.rewrites:
            yield from rewrite.groups
        yield from {file.path: file for patch in self.patches for file in patch.files}.values()
        for fragment in (*(move.fragment for move in self.moves), *self.fresh):
            yield from fragment.groups

    def updated(self) -> Iterator[TouchedRows]:
        """The rows with new values."""
        yield from (rewrite.rows for rewrite in self.rewrites)
        yield from (patch.rows for patch in self.patches)
        for move in self.moves:
            yield from move.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """A change of rows, prepared against one snapshot."""

    base: Snapshot
    edits: RowEdits
    record: OperationRecord
    summary: Mapping[str, Any]
    uses: Mapping[Any, StrategyUse] = field(default_factory=dict)
    """How new values were written, by strategy."""

    @property
    def changes_nothing(self) -> bool:
        """Whether no row is concerned."""
        edits = self.edits
        return not (edits.deletes or edits.rewrites or edits.patches or edits.moves or edits.fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsPlanned:
    """What a change of rows would do to a version; nothing was written.

    Attributes
    ----------
    version
        The version looked at.
    deleted, updated, inserted
        How many rows.
    fragments
        How many fragments the version has.
    strategies
        How new values would be written: fragments, rows and estimated bytes by ``rewrite``, ``patch`` and ``move``.
    bytes
        Estimated bytes read and written for them, and of rows inserted.
    """

    version: int
    deleted: int = 0
    updated: int = 0
    inserted: int = 0
    fragments: int
    strategies: Mapping[Any, StrategyUse]
    bytes: int

    @property
    def strategy(self) -> str:
        """The strategies in words."""
        return strategy_text(self.strategies)

    def explain(self) -> str:
        """The plan, one fact a line."""
        facts = {
            "version": f"{self.version:,}",
            "rows deleted": f"{self.deleted:,}",
            "rows updated": f"{self.updated:,}",
            "rows inserted": f"{self.inserted:,}",
            "strategy": self.strategy,
        }
        for name, use in self.strategies.items():
            facts[name] = (
                f"{use.rows:,} rows in {use.fragments:,} of {self.fragments:,} fragments, ~{use.bytes:,} bytes"
            )
        facts["bytes"] = f"~{self.bytes:,}"
        return "\n".join(f"{name:<13}  {text}" for name, text in facts.items())


def strategy_text(uses: Mapping[Any, StrategyUse]) -> str:
    """The strategies used, in a word or a few."""
    names = [name for name in ("rewrite", "patch", "move") if name in uses]
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:]) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedRows:
    """New values in files whose fragment has changed meanwhile, to be carried to where the rows are now.

    Attributes
    ----------
    groups, patches, row_count
        The files that hold the values, and how many positions they are for.
    positions, row_ids
        Where in the files, and of which rows; all live; shape ``(n,)`` each, positions ascending.
    """

    groups: tuple[ColumnGroup, ...]
    row_count: int
    positions: npt.NDArray[np.int64]
    row_ids: U64
    patches: tuple[ColumnPatch, ...] = ()


def row_runs(parts: list[U64]) -> RowRuns:
    """Row ids, each live in one part at most, as runs for a record; made coarser where they are many."""
    return RowRuns.from_ids(np.concatenate([np.empty(0, np.uint64), *parts])).coarsened(MAX_RUNS)
