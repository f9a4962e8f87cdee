"""One operation overtakes another: what the conflict matrix says of the two, and what becomes of the table.

An operation runs alone once; its commit is kept. To meet another one, that commit is put beside the table right when
the other one claims its version, as if some process had just made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from machine.interposed import InterposedStore
from machine.state import Effect, State
from row_samples import Forced

import lake_format as lake
from lake_format import transaction
from lake_format.conflicts import CONDITIONS, Action, Decision, decide_all, load_matrix
from lake_format.errors import LakeError
from lake_format.operation_record import OperationRecord
from lake_format.store.local import LocalStore
from lake_format.transaction import with_key_hashes

from .column_operations import COLUMN_OPERATIONS
from .row_operations import ROW_OPERATIONS
from .sample import Sample
from .table import COMPUTED, Kind, N, base, opened
from .upkeep_operations import UPKEEP_OPERATIONS

MATRIX = load_matrix()
SAMPLES: tuple[Sample, ...] = (*ROW_OPERATIONS, *COLUMN_OPERATIONS, *UPKEEP_OPERATIONS)


@dataclass(frozen=True)
class Solo:
    """An operation that nobody was in the way of."""

    folder: Path
    files: tuple[str, ...]
    """Those that are not the same in the table it began with."""
    record: OperationRecord
    state: State

    def put_beside(self, folder: Path) -> None:
        """Commit it in another copy of the table."""
        for path in self.files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).unlink(missing_ok=True)
            (folder / path).hardlink_to(self.folder / path)


def all_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@cache
def solo(sample: Sample, kind: Kind) -> Solo:
    """What an operation makes of the table of a kind."""
    start = base(kind)
    folder = start.folder.parent / str(SAMPLES.index(sample))
    table = opened(start.copied(folder))
    with Forced(sample.strategy):
        sample.call(table)
    found = opened(LocalStore(folder, sync=False))
    assert found.version == start.state.number + 1, (
        f"{sample} made {found.version - start.state.number} commits"
    )
    (told,) = found.snapshot.version.operations
    record = with_key_hashes(found.snapshot.store, OperationRecord.from_json(told))
    assert record.kind == sample.kind
    new = [
        path
        for path in sorted(all_files(folder))
        if not (start.folder / path).exists()
        or (start.folder / path).read_bytes() != (folder / path).read_bytes()
    ]
    return Solo(folder, tuple(new), record, after(sample.plan(start.state), start.state))


def after(effect: Effect, state: State) -> State:
    """The version that an effect makes of another; a computed column follows what it is computed from."""
    found = effect.apply(state)
    number = state.number + 1
    if found.column(COMPUTED) is not None:
        rows = {one: {**row, COMPUTED: row[N] * 2} for one, row in found.rows.items()}
        found = replace(found, rows=rows)
    return replace(found, number=number, asked_at=None, history={**state.history, number: found})


@dataclass(frozen=True)
class Pair:
    """Two operations that meet: ``mine`` was planned before ``theirs`` was committed."""

    mine: Sample
    theirs: Sample
    kind: Kind

    def __str__(self) -> str:
        return f"{self.mine} meets {self.theirs}"

    @property
    def records(self) -> tuple[OperationRecord, OperationRecord]:
        """What they touch; isolation is nothing to an operation alone."""
        kind = replace(self.kind, serializable=False)
        return solo(self.mine, kind).record, solo(self.theirs, kind).record

    @cached_property
    def met(self) -> dict[str, Action]:
        """The rules of their cell whose conditions hold."""
        rules = MATRIX.rules(self.mine.kind, self.theirs.kind, self.kind.serializable)
        return {name: action for name, action in rules if CONDITIONS[name](*self.records)}

    @property
    def action(self) -> Action:
        return max([Action.COMMUTE, *self.met.values()], key=lambda action: action.strength)

    @property
    def nearness(self) -> int:
        """In how many ways they touch the same things."""
        mine, theirs = self.records
        fields = (mine.fields_read, mine.fields_written), (theirs.fields_read, theirs.fields_written)
        rows = (mine.rows_deleted, mine.rows_updated), (theirs.rows_deleted, theirs.rows_updated)
        own, other = (
            one.fragments_masked | one.fragments_rewritten | one.fragments_removed for one in (mine, theirs)
        )
        return (
            sum(not one.isdisjoint(two) for one in fields[0] for two in fields[1])
            + sum(one.overlaps(two) for one in rows[0] for two in rows[1])
            + (not own.isdisjoint(other))
            + (mine.rows_added > 0 and theirs.rows_added > 0)
        )


def pairs(mine: str, theirs: str, *, serializable: bool = False) -> Iterator[Pair]:
    """All pairs of samples of a cell: on a table with a key first."""
    for keyed in (True, False):
        kind = Kind(keyed=keyed, serializable=serializable)
        own, other = (
            [sample for sample in SAMPLES if sample.kind == name and keyed in sample.keyed]
            for name in (mine, theirs)
        )
        yield from (Pair(one, two, kind) for one in own for two in other)


@dataclass
class Outcome:
    """What became of an operation that was overtaken."""

    table: lake.Table
    files: set[str]
    error: LakeError | None = None
    decisions: list[Decision] = field(default_factory=list)


@contextmanager
def meet(pair: Pair) -> Iterator[Outcome]:
    """Let ``theirs`` be committed when ``mine`` is about to be."""
    with TemporaryDirectory(prefix="cell-") as place:
        folder = Path(place) / "table"
        store = base(pair.kind).copied(folder)
        between = InterposedStore(store)
        table = opened(between)
        between.meanwhile = lambda: solo(pair.theirs, pair.kind).put_beside(folder)
        error, decisions = None, list[Decision]()

        def deciding(*records: Any, **options: Any) -> Decision:
            decisions.append(decide_all(*records, **options))
            return decisions[-1]

        with Forced(pair.mine.strategy), mock.patch.object(transaction, "decide_all", deciding):
            try:
                pair.mine.call(table)
            except LakeError as found:
                error = found
        between.raise_failure()
        assert between.meanwhile is None, f"{pair}: nothing was committed"
        yield Outcome(opened(store), all_files(folder), error, decisions)
