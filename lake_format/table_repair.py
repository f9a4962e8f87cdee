"""The side of a table that mends it: what is derived is made anew; what is lost is told, and dropped on request."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from lake_format.checkpoint import STRIDE
from lake_format.engine import Progress
from lake_format.index_upkeep import EncodedRows, ReplaceShards
from lake_format.key_changes import SettleKeyIndex
from lake_format.key_index import KeyRunsMerged
from lake_format.keys import key_columns
from lake_format.model import Fragment, IndexEntry
from lake_format.paths import LATEST, checkpoint_path, version_path
from lake_format.repairs import CorrectFragments, DropFragments, RepairFinding, RepairReport
from lake_format.row_runs import RowRuns
from lake_format.statistics import ColumnStatistics
from lake_format.table_maintenance import TableMaintenance
from lake_format.timeline import write_checkpoint
from lake_format.transaction import REFUSALS, Change
from lake_format.verification import WRONG, Problem

__all__ = ["TableRepair"]


@dataclass(slots=True)
class _Damage:
    """What a look at the newest version found, sorted by what mends it."""

    findings: list[RepairFinding] = field(default_factory=list)
    hint: bool = False
    checkpoint: int | None = None
    shards: dict[str, set[str]] = field(default_factory=dict)
    lost: list[Fragment] = field(default_factory=list)
    wrong: list[tuple[Fragment, tuple[ColumnStatistics, ...]]] = field(default_factory=list)
    count: bool = False
    keys: set[str] | None = None

    def found(self, problem: Problem, action: str = "", rows: int = 0) -> None:
        self.findings.append(RepairFinding(path=problem.path, what=problem.what, action=action, rows=rows))


class TableRepair(TableMaintenance):
    """Repair, in one commit."""

    def repair(
        self, *, dry_run: bool = True, drop_lost: bool = False, progress: Progress | None = None
    ) -> RepairReport:
        """Look at everything the newest version names, and mend what can be mended.

        An index file that is missing or damaged is taken out of its index: its rows are searched flat until
        :meth:`optimize_index` encodes them again. A key index that is damaged, or would not find a row, is built anew
        from the keys; where they cannot all be read, its damaged files leave it, and their rows are found by
        reading. Wrong statistics and counts are measured anew; a broken hint and a
        missing history checkpoint are written again. A data file that cannot be read is reported with the number of
        rows in its fragment; ``drop_lost=True`` removes those rows, so that the others can be read. Everything is one
        commit, after which :meth:`verify` finds no more than what is left. Other objects are not touched.

        Parameters
        ----------
        dry_run
            Only tell what would be done; this is the default.
        drop_lost
            Remove fragments that cannot be read. Their rows are gone from this version on; older versions still name
            them, for as long as a file may be put back from a backup.
        progress
            Called with ``("repair", fragments done, fragments in all)``.

        Raises
        ------
        CorruptionError, NotFoundError
            A version object or manifest is broken; what it said cannot be made up. Restore an older version.
        ConflictError
            Others changed what was to be mended at the same time; nothing was changed.
        """
        self._require_writable()
        self._require_alone("repair")
        damage = self._damage(drop_lost=drop_lost, progress=progress)
        report = RepairReport(dry_run=dry_run, version=self.version, findings=damage.findings)
        if dry_run:
            return report
        changes = self._mending(damage)
        if changes:
            report.version = self._mended(changes)
        if damage.hint and not changes:  # a commit writes it anyway
            self._log.publish_hint(self._snapshot.version)
        if damage.checkpoint is not None:
            write_checkpoint(self._log, self._log.read(damage.checkpoint))
        return report

    def _damage(self, *, drop_lost: bool, progress: Progress | None) -> _Damage:
        damage = _Damage()
        self._look_at_log(damage)
        snapshot = self.refresh().snapshot
        fragments = snapshot.fragments.fragments()
        live = sum(one.row_count - one.deleted_count for one in fragments)
        if live != snapshot.version.row_count:
            damage.count = True
            what = f"the version counts {snapshot.version.row_count} rows, its fragments {live}"
            damage.found(Problem(version_path(self.version), what), "count rows anew")
        for done, fragment in enumerate(fragments):
            self._look_at_fragment(fragment, damage, drop_lost=drop_lost)
            if progress is not None:
                progress("repair", done + 1, len(fragments))
        for entry in snapshot.version.indexes:
            self._look_at_index(entry, damage)
        self._look_at_keys(damage)
        return damage

    def _look_at_log(self, damage: _Damage) -> None:
        newest = self._log.latest()
        hint = self._log.hint()
        if hint is None or hint.table_id != newest.table_id:
            damage.hint = True
            damage.found(Problem(LATEST, "the hint is missing or damaged"), "write it again")
        number = newest.version // STRIDE * STRIDE
        known = number < max(newest.horizon, 1) or self._log.checkpoint(number, newest.table_id) is not None
        if not known:
            damage.checkpoint = number
            where = Problem(checkpoint_path(number), "the history checkpoint is missing or damaged")
            damage.found(where, "write it again")

    def _look_at_fragment(self, fragment: Fragment, damage: _Damage, *, drop_lost: bool) -> None:
        problems = list(self._engine.check_fragment(self._snapshot, fragment, set()))
        if not problems:
            return
        with suppress(*WRONG):
            damage.wrong.append((fragment, self._engine.measure_fragment(self._snapshot, fragment)))
            for problem in problems:
                damage.found(problem, "measure its statistics anew")
            return
        rows = fragment.row_count - fragment.deleted_count
        if drop_lost:
            damage.lost.append(fragment)
        for problem in problems:
            damage.found(problem, f"drop fragment {fragment.fragment_id}" if drop_lost else "", rows)

    def _look_at_index(self, entry: IndexEntry, damage: _Damage) -> None:
        for shard in entry.shards:
            problems = list(self._engine.check_shard(self._store, shard))
            for problem in problems:
                damage.shards.setdefault(entry.index_id, set()).add(shard.path)
                damage.found(problem, f"take it out of index {entry.name}; its rows are searched flat")

    def _look_at_keys(self, damage: _Damage) -> None:
        lost = {finding.path for finding in damage.findings if finding.rows}
        for problem in self._engine.check_keys(self._snapshot):
            if problem.derived:
                damage.keys = (damage.keys or set()) | {problem.path}
                damage.found(problem, "build the key index anew")
            elif not lost:  # else it tells once more of a file that cannot be read
                damage.found(problem)

    def _mended(self, changes: list[Change]) -> int:
        """Commit; what was written for changes that do not land is removed."""
        try:
            return self._commit(*changes, base=self._snapshot.version).version
        except REFUSALS:
            built = [one.merged.run for one in changes if isinstance(one, SettleKeyIndex)]
            self._engine.discard_files(self._store, (), [one.run.path for one in built if one is not None])
            raise

    def _key_index_anew(self, damaged: set[str]) -> SettleKeyIndex | None:
        """A key index over all rows in place of the one there is; one without the damaged files if rows are lost."""
        index = self._snapshot.version.key_index
        if index is None:
            return None
        gone, run, refreshed = index.runs, None, index.stale
        try:
            names = key_columns(self._snapshot.version)
            built = self._engine.build_key_index(self._snapshot, names, self._around.new_id)
            run = built.runs[0] if built.runs else None
        except WRONG:  # told with the file, or the rows, that it is about
            gone, refreshed = tuple(one for one in index.runs if one.run.path in damaged), RowRuns()
        if run is None and not gone:
            return None
        merged = KeyRunsMerged(replaced=frozenset(one.identity for one in gone), run=run, refreshed=refreshed)
        return SettleKeyIndex(base=self._snapshot, merged=merged)

    def _mending(self, damage: _Damage) -> list[Change]:
        changes: list[Change] = []
        if damage.keys is not None and (anew := self._key_index_anew(damage.keys)) is not None:
            changes.append(anew)
        if damage.lost:
            changes.append(DropFragments(fragments=tuple(damage.lost)))
        if damage.wrong or damage.count:
            changes.append(CorrectFragments(fragments=tuple(damage.wrong)))
        for entry in self._snapshot.version.indexes:
            if gone := damage.shards.get(entry.index_id):
                rows = EncodedRows(
                    shards=(),
                    removed=frozenset(gone),
                    kind=entry.kind,
                    parameters=entry.parameters,
                    encoded=0,
                    copied=0,
                    dropped=sum(shard.row_count for shard in entry.shards if shard.path in gone),
                )
                changes.append(ReplaceShards(entry=entry, rows=rows, summary={"index": entry.name}))
        return changes
