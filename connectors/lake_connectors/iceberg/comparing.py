"""What became of an Iceberg table's data files between two snapshots, against what a table did to them meanwhile.

The rule is the difference: what Iceberg added, removed and deleted is done here too, and nothing else. Where that
would undo what was done here, because rows were written anew there, it is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pyroaring import BitMap64

from lake_connectors.iceberg.entries import Entry
from lake_connectors.iceberg.held import Held, HeldFiles
from lake_connectors.iceberg.state import State
from lake_format.errors import ConflictError
from lake_format.positions import positions_of
from lake_format.row_edits import TouchedRows
from lake_format.row_runs import RowRuns
from lake_format.store.places import Place

__all__ = ["Comparison"]

_ANEW = "import the table anew, to another place"


@dataclass(slots=True)
class Comparison:
    """The difference of two states, gathered file by file.

    Attributes
    ----------
    held
        The files as this table has them.
    before
        The files with live rows as this table once got them; None where it has them so still.
    new
        Files that came, each with the positions deleted in it.
    """

    held: HeldFiles
    before: State | None
    new: list[tuple[Entry, BitMap64 | None]] = field(default_factory=list)
    _gone: list[Held] = field(default_factory=list)
    _deleted: list[tuple[Held, BitMap64]] = field(default_factory=list)

    def run(self, after: State) -> None:
        """Compare with a state.

        Raises
        ------
        ConflictError
            Rows were changed here that Iceberg wrote anew; or what was done here hides what has to go.
        """
        for place, entry in after.entries.items():
            self._compare(place, entry, after.deleted.get(place, BitMap64()))
        for place in self._places():
            if place not in after.entries:
                held = self.held.by_place.get(place)
                if held is None:
                    raise _hidden(place, "is gone from the snapshot")
                self._gone.append(held)
        if self.new:
            self._check_kept()

    def removed(self) -> tuple[tuple[TouchedRows, ...], RowRuns]:
        """The live rows that go, where they are, and their row ids."""
        touched: list[TouchedRows] = []
        runs: list[tuple[int, int]] = []
        for held, positions in self._going():
            here = self.held.deleted(held)
            if live := positions - here:
                touched.append(TouchedRows(fragment_id=held.fragment_id, positions=live))
                runs += _runs(held, live)
            if moved := self._changed_here(held) & positions:
                ids, places = self.held.elsewhere(held, positions_of(moved).astype(np.uint64))
                touched += [
                    TouchedRows(fragment_id=number, positions=found) for number, found in places.items()
                ]
                runs += [(one, 1) for one in ids.tolist()]
        return tuple(touched), RowRuns.covering(runs)

    def replaced(self) -> RowRuns:
        """The row ids of files that went while others came."""
        runs = [(one.first_row_id, one.rows) for one in self._gone]
        return RowRuns.covering(runs) if self.new else RowRuns()

    # --- inside -------------------------------------------------------------------------------------------

    def _compare(self, place: Place, entry: Entry, deleted: BitMap64) -> None:
        held, had = self.held.by_place.get(place), place in self._places()
        if held is None and not had:
            self.new.append((entry, deleted or None))
            return
        if held is not None and entry.file.record_count != held.rows:
            raise ConflictError(
                f"data file {place.uri} had {held.rows} rows and has {entry.file.record_count}", fix=_ANEW
            )
        before = self._deleted_before(place)
        if held is None:
            if deleted != before:
                raise _hidden(place, "has other deletes")
        elif not had:
            raise _hidden(place, "is back in the snapshot")
        elif before - deleted:  # as after a rollback: rows that are there again are new ones
            self._gone.append(held)
            self.new.append((entry, deleted or None))
        elif more := deleted - before:
            self._deleted.append((held, more))

    def _places(self) -> Mapping[Place, object]:
        return self.held.by_place if self.before is None else self.before.entries

    def _deleted_before(self, place: Place) -> BitMap64:
        if self.before is not None:
            return self.before.deleted.get(place, BitMap64())
        held = self.held.by_place.get(place)
        return BitMap64() if held is None else self.held.deleted(held)

    def _changed_here(self, held: Held) -> BitMap64:
        """Positions that were deleted, or whose row was moved, on this side."""
        if self.before is None:
            return BitMap64()
        return self.held.deleted(held) - self._deleted_before(held.place)

    def _going(self) -> Sequence[tuple[Held, BitMap64]]:
        whole = [(one, BitMap64(range(one.rows))) for one in self._gone]
        return [*whole, *self._deleted]

    def _check_kept(self) -> None:
        """Refuse where rows that came may be ones that were changed here."""
        for held in self._gone:
            if self._changed_here(held) or self.held.has_other_values(held):
                raise self._lost(held, "Iceberg wrote its rows to other files")
        for held, more in self._deleted:
            moved = self._changed_here(held) & more
            ids = self.held.elsewhere(held, positions_of(moved).astype(np.uint64))[0] if moved else ()
            if len(ids) or self.held.has_other_values(held):
                raise self._lost(held, "Iceberg deleted rows of it and wrote new ones")

    def _lost(self, held: Held, what: str) -> ConflictError:
        return ConflictError(
            f"rows of data file {held.place.uri} were deleted or updated here, and {what}: which of both "
            "counts cannot be told",
            fix=f"make such changes in Iceberg, and {_ANEW}",
        )


def _hidden(place: Place, what: str) -> ConflictError:
    return ConflictError(
        f"data file {place.uri} {what}, and this table has no fragment of it: its rows were compacted, "
        "clustered, restored or all deleted here",
        fix=_ANEW,
    )


def _runs(held: Held, positions: BitMap64) -> list[tuple[int, int]]:
    ids = held.ids_at(positions_of(positions).astype(np.uint64))
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1] + np.uint64(1)])
    lengths = np.diff(np.r_[starts, len(ids)])
    return list(zip(ids[starts].tolist(), lengths.tolist(), strict=True))
