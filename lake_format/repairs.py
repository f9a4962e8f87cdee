"""Changes that mend a table, and what a repair found. What is lost is dropped only when asked for, never silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from lake_format.draft import Draft
from lake_format.model import Fragment
from lake_format.operation_record import OperationRecord
from lake_format.positions import deleted_positions
from lake_format.row_edits import row_runs
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics
from lake_format.transaction import YieldedError

__all__ = ["CorrectFragments", "DropFragments", "RepairFinding", "RepairReport", "live_row_ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairFinding:
    """Something broken, and what is done about it.

    Attributes
    ----------
    path
        The object that is broken or missing.
    what
        What is wrong with it.
    action
        What mends it; "" where nothing here can.
    rows
        Rows that are lost with it; 0 where none is.
    """

    path: str
    what: str
    action: str
    rows: int = 0


@dataclass(slots=True, kw_only=True)
class RepairReport:
    """What a repair found and did.

    Attributes
    ----------
    dry_run
        Whether nothing was touched.
    version
        The version that holds the repair; the one looked at where nothing was committed.
    findings
        Everything found, mended or not.
    """

    dry_run: bool
    version: int
    findings: list[RepairFinding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.findings

    @property
    def left(self) -> list[RepairFinding]:
        """What cannot be mended, or only by dropping rows."""
        return [one for one in self.findings if not one.action]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        findings = [asdict(one) for one in self.findings]
        return {"dry_run": self.dry_run, "version": self.version, "findings": findings}


def live_row_ids(fragment: Fragment) -> U64:
    """Row ids of the rows of a fragment that are not deleted; shape ``(live rows,)``."""
    live = np.ones(fragment.row_count, bool)
    live[deleted_positions(fragment).astype(np.int64)] = False
    return fragment.row_ids()[live]


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFragments:
    """Remove fragments whose files are lost, with all their rows."""

    fragments: tuple[Fragment, ...]

    @property
    def record(self) -> OperationRecord:
        """A delete of every row in them."""
        return OperationRecord(
            kind="delete",
            rows_deleted=row_runs([live_row_ids(fragment) for fragment in self.fragments]),
            fragments_removed=frozenset(fragment.fragment_id for fragment in self.fragments),
        )

    @property
    def summary(self) -> Mapping[str, Any]:
        """How much is gone."""
        rows = sum(fragment.row_count - fragment.deleted_count for fragment in self.fragments)
        return {"rows_lost": rows, "fragments_lost": len(self.fragments)}

    def apply(self, draft: Draft) -> OperationRecord:
        """Remove those that are as they were found."""
        _require_same(draft, self.fragments)
        draft.replace_fragments({fragment.fragment_id: None for fragment in self.fragments})
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Whoever repairs looks again first."""
        raise YieldedError("others changed the table while it was repaired", fix="repair it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectFragments:
    """Put statistics that were measured in place of wrong ones, and count rows again.

    To others it is a compaction that changed nothing: what they do goes before it.
    """

    fragments: tuple[tuple[Fragment, Sequence[ColumnStatistics]], ...]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """The fragments whose entries it writes."""
        ids = frozenset(fragment.fragment_id for fragment, _ in self.fragments)
        return OperationRecord(kind="compact", fragments_rewritten=ids)

    def apply(self, draft: Draft) -> OperationRecord:
        """Replace the entries of fragments that are as they were found."""
        _require_same(draft, [fragment for fragment, _ in self.fragments])
        draft.replace_fragments(
            {one.fragment_id: replace(one, statistics=tuple(found)) for one, found in self.fragments}
        )
        draft.count_rows()
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Whoever repairs looks again first."""
        raise YieldedError("others changed the table while it was repaired", fix="repair it again")


def _require_same(draft: Draft, fragments: Sequence[Fragment]) -> None:
    now = draft.snapshot.fragments
    if any(now.by_id(fragment.fragment_id) != fragment for fragment in fragments):
        raise YieldedError("others changed the table while it was repaired", fix="repair it again")
