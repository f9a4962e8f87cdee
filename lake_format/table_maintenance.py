"""The side of a table that keeps itself in order: one call does what its policy says is due."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.compute as pc
from pyroaring import BitMap64

from lake_format.clustering import clustering_of
from lake_format.compaction import CompactionTarget, choose_fragments
from lake_format.engine import Progress
from lake_format.maintenance import MaintenanceReport, MaintenanceStep
from lake_format.model import IndexEntry
from lake_format.open_layout import not_open
from lake_format.properties import age_property, flag_property, integer_property
from lake_format.snapshot import Snapshot
from lake_format.table_index_parts import TableIndexParts
from lake_format.table_layout import TableLayout

__all__ = ["TableMaintenance"]

_FRAGMENTS = 8
"""From so many fragments on that are too small or too worn, compaction is due."""
_ROWS, _SHARE = 1000, 0.01
"""From so many rows, or this share of all, that an index does not answer for, it is due to be optimized."""
_DISORDER, _SORTED = 0.1, 4
"""From this share of rows that are not in the table's order on they are sorted, so many groups in one run at most."""
_Step = tuple[bool, str, Callable[[], Any]]


class TableMaintenance(TableIndexParts, TableLayout):
    """The policy is a matter of table properties, ``maintain.*``."""

    def maintain(self, *, dry_run: bool = False, progress: Progress | None = None) -> MaintenanceReport:
        """Do the upkeep that is due by the table's properties, in a safe order; tell what was done and why.

        First compaction (``maintain.compact``) from eight small or worn fragments on; then, where the table has a
        clustering, a tenth of whose rows are not in order, some of those are sorted (``maintain.cluster``), at most
        four groups of eight full fragments a run; then indexes that lack a
        thousand rows or a hundredth of all (``maintain.optimize-indexes``); then versions expire that are older than
        ``maintain.expire-older-than``, but for the newest ``maintain.keep-versions``; last, what no version needs any
        more is removed (``maintain.collect-garbage``). Versions never expire by default, and then nothing is removed.
        Every step gives way to users' work, and may be run again at any time.

        Parameters
        ----------
        dry_run
            Only tell what is due.
        progress
            Called with ``(stage, done, total)``.
        """
        self._require_writable()
        self._require_alone("maintain")
        report = MaintenanceReport(dry_run=dry_run)
        steps: tuple[tuple[str, Callable[[Progress | None], _Step]], ...] = (
            ("compact", self._compaction_due),
            ("cluster", self._clustering_due),
            ("optimize-indexes", self._indexes_due),
            ("expire", self._expiry_due),
            ("collect-garbage", self._garbage_due),
        )
        for name, look in steps:
            self.refresh()
            due, why, work = look(progress)
            result = work() if due and not dry_run else None
            report.steps.append(MaintenanceStep(name=name, due=due, why=why, result=result))
        return report

    def _compaction_due(self, progress: Progress | None) -> _Step:
        properties = self.properties
        target = CompactionTarget(
            rows=integer_property(properties, "write.fragment-rows"),
            bytes=integer_property(properties, "write.fragment-bytes"),
            deleted_share=0.1,
        )
        chosen = choose_fragments(self._snapshot.fragments, target, not_open(self._snapshot))
        found = sum(len(group) for group in chosen)
        wanted = flag_property(properties, "maintain.compact")
        why = f"{found} fragments are small or worn; it is due from {_FRAGMENTS} on"
        return (
            wanted and found >= _FRAGMENTS,
            why if wanted else _OFF,
            lambda: self.compact(progress=progress),
        )

    def _clustering_due(self, progress: Progress | None) -> _Step:
        version = self._snapshot.version
        clustering = clustering_of(version.properties, version.schema)
        if clustering is None:
            return False, "the table has no clustering", lambda: None
        if not flag_property(version.properties, "maintain.cluster"):
            return False, _OFF, lambda: None
        order = str(clustering)
        groups = [
            group
            for group in self._out_of_order(order)
            if any(fragment.clustering != order for fragment in group)
        ]
        rows = sum(
            one.row_count - one.deleted_count for group in groups for one in group if one.clustering != order
        )
        share = rows / max(version.row_count, 1)
        why = f"{rows:,} rows are not in the table's order; it is due from {_DISORDER:.0%} of the rows on"
        return (
            share >= _DISORDER,
            why,
            lambda: self._rewrite(groups[:_SORTED], "cluster", clustering=clustering, progress=progress),
        )

    def _indexes_due(self, progress: Progress | None) -> _Step:
        version = self._snapshot.version
        lacking = {entry.name: _unanswered(self._snapshot, entry) for entry in version.indexes}
        limit = max(1, min(_ROWS, int(_SHARE * version.row_count)))
        due = [name for name, rows in lacking.items() if rows >= limit]
        wanted = flag_property(version.properties, "maintain.optimize-indexes")
        why = (
            "; ".join(f"{name} lacks {rows:,} rows" for name, rows in lacking.items()) or "there is no index"
        )
        return (
            wanted and bool(due),
            why if wanted else _OFF,
            lambda: [report for name in due for report in self.optimize_index(name, progress=progress)],
        )

    def _expiry_due(self, _progress: Progress | None) -> _Step:
        version = self._snapshot.version
        age = age_property(version.properties, "maintain.expire-older-than")
        keep = integer_property(version.properties, "maintain.keep-versions")
        if age is None:
            return False, "maintain.expire-older-than is 'never'", lambda: None
        _, expired = self._expirable(version, age, keep)
        why = f"{expired} versions ceased to be current more than {age} ago"
        return expired > 0, why, lambda: self.expire_versions(age, keep=keep)

    def _garbage_due(self, _progress: Progress | None) -> _Step:
        version = self._snapshot.version
        if not flag_property(version.properties, "maintain.collect-garbage"):
            return False, _OFF, lambda: None
        if not version.horizon:
            return False, "no version has expired", lambda: None
        found = self.collect_garbage()
        why = f"{len(found.versions)} versions and {len(found.objects)} objects are needed no longer"
        return bool(found.versions or found.objects), why, lambda: self.collect_garbage(dry_run=False)


_OFF = "switched off by its property"


def _unanswered(snapshot: Snapshot, entry: IndexEntry) -> int:
    """About how many rows with a vector an index does not answer for, or answers for although they are gone."""
    rows, column = snapshot.version.row_count, snapshot.fragments.column(entry.field_id)
    if column is not None:
        rows -= int(pc.sum(column[2]).as_py() or 0)
    covered = sum(shard.row_count for shard in entry.shards)
    return abs(rows - covered) + (0 if entry.stale is None else len(BitMap64.deserialize(entry.stale)))
