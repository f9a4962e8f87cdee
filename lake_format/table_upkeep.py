"""The upkeep side of a table: compact it, let versions expire, collect garbage, verify what is stored."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from lake_format.branches import ChangeEntry
from lake_format.clustering import clustering_of
from lake_format.compaction import (
    CompactFragments,
    CompactionReport,
    CompactionTarget,
    RewriteRequest,
    Rewritten,
    choose_fragments,
)
from lake_format.engine import Progress
from lake_format.errors import ConflictError, InvalidInputError, NotFoundError
from lake_format.history import moment_of
from lake_format.lines import needed_versions
from lake_format.model import Fragment, Version
from lake_format.open_layout import not_open
from lake_format.properties import integer_property
from lake_format.snapshot import Snapshot
from lake_format.table_keys import TableKeys
from lake_format.timeline import version_at
from lake_format.transaction import YieldedError
from lake_format.upkeep import ExpireVersions, ExpiryReport, GarbageReport, collect
from lake_format.verification import VerificationReport, check_metadata

__all__ = ["TableUpkeep"]


class TableUpkeep(TableKeys):
    """What keeps a table fast and small; users' work always goes first."""

    def compact(
        self,
        target_rows: int | None = None,
        *,
        target_bytes: int | None = None,
        deleted_share: float = 0.1,
        progress: Progress | None = None,
    ) -> CompactionReport:
        """Put small fragments together, and write those anew in which many rows are deleted.

        In a table of ``write.layout`` ``open`` also those that are not one Parquet file which anybody can read.

        Row ids stay, so indexes need nothing and answer as before. Rows keep their order among each other; the
        new fragments come after the others in a scan. Each group of fragments is a commit of its own: what is
        done stays done if the rest is interrupted. Deletes and updates made meanwhile hold for the new fragments;
        a group that somebody rewrote or replaced meanwhile is left alone and counted as ``yielded``.

        Parameters
        ----------
        target_rows, target_bytes
            The most a new fragment should have; by default the table's ``write.fragment-rows`` and
            ``write.fragment-bytes``. Fragments below half of both are put together.
        deleted_share
            From this share of deleted rows on a fragment is written anew, above 0 and at most 1.
        progress
            Called with ``(stage, rows done, rows in all or 0)``.

        Raises
        ------
        InvalidInputError
            A target that is not positive, or a share out of range.
        """
        self._require_writable()
        self._require_alone("compact")
        properties = self.refresh().snapshot.version.properties
        target = CompactionTarget(
            rows=_positive("target_rows", target_rows, integer_property(properties, "write.fragment-rows")),
            bytes=_positive(
                "target_bytes", target_bytes, integer_property(properties, "write.fragment-bytes")
            ),
            deleted_share=_share(deleted_share),
        )
        report = CompactionReport()
        fragments = self._snapshot.fragments
        for group in choose_fragments(fragments, target, not_open(self._snapshot)):
            self._compact_group([fragments.fragment(index) for index in group], progress, report)
        self._settle_key_index()
        return report

    def expire_versions(
        self, older_than: timedelta | datetime | str | None = None, *, keep: int = 1
    ) -> ExpiryReport:
        """Let old versions go: they can no longer be opened, and :meth:`collect_garbage` may remove their files.

        Tagged versions stay, and those that branches were made from. Each branch has versions of its own, which
        expire on their own. Work that was prepared on an expired version is refused when it commits.

        Parameters
        ----------
        older_than
            Versions that ceased to be current before this moment expire: a ``datetime`` or ISO 8601 text with
            a time zone, or a ``timedelta`` back from now. None looks at ``keep`` alone.
        keep
            At least so many of the newest versions stay, whatever their age.
        """
        self._require_writable()
        self._require_alone("expire_versions")
        newest = self.refresh().snapshot.version
        oldest, expired = self._expirable(newest, older_than, keep)
        if not expired:
            self._tell_main(newest)
            return ExpiryReport(horizon=max(newest.horizon, 1), expired=0)
        change = ExpireVersions(horizon=oldest, summary={"horizon": oldest, "expired": expired})
        try:
            landed = self._commit(change, base=newest)
        except YieldedError:  # somebody else lets versions expire at this moment
            return ExpiryReport(horizon=max(self.refresh().snapshot.version.horizon, 1), expired=0)
        self._tell_main(landed)
        return ExpiryReport(horizon=landed.horizon, expired=expired)

    def _expirable(
        self, newest: Version, older_than: timedelta | datetime | str | None, keep: int
    ) -> tuple[int, int]:
        """The oldest version to keep, and how many expire before it."""
        before, oldest = max(newest.horizon, 1), newest.version - _positive("keep", keep, 1) + 1
        if older_than is not None:
            oldest = min(oldest, self._current_at(newest, older_than))
        kept = {*newest.refs.values(), *needed_versions(newest.branches, 0)}
        return oldest, sum(number not in kept for number in range(before, oldest))

    def _tell_main(self, newest: Version) -> None:
        """Let main know which versions of this branch may be collected: what a merge relies on is decided there."""
        if newest.origin is None or newest.horizon == 0:
            return
        entry = self._newest_of_main().branches.get(newest.origin.name)
        if entry is None or entry.line != newest.line or entry.horizon >= newest.horizon:
            return
        horizon, name = newest.horizon, newest.origin.name
        summary = {"branch": name, "horizon": horizon}
        with suppress(NotFoundError):  # the branch was deleted meanwhile
            self._commit_on_main(
                ChangeEntry(
                    name=name,
                    line=newest.line,
                    summary=summary,
                    edit=lambda one: replace(one, horizon=max(one.horizon, horizon)),
                )
            )

    def _current_at(self, newest: Version, when: timedelta | datetime | str) -> int:
        """The oldest version that was current at a moment or later."""
        if isinstance(when, timedelta):
            moment = self._around.microseconds() - when // timedelta(microseconds=1)
        else:
            moment = moment_of(when)
        try:
            return version_at(self._log, newest, moment).version
        except NotFoundError:
            return max(newest.horizon, 1)

    def collect_garbage(
        self, *, dry_run: bool = True, grace: timedelta = timedelta(minutes=10)
    ) -> GarbageReport:
        """Remove what no version needs any more: files of expired versions, and what failed writers left.

        Looks at main and all branches, wherever it is called. What deleted branches alone had goes at once. Other
        files are removed only if they are older than the oldest kept version, by the store's own clock: whatever
        somebody writes at this moment is younger. Nothing is removed before :meth:`expire_versions`.

        Parameters
        ----------
        dry_run
            Only tell what would be removed; this is the default.
        grace
            How much older than the oldest kept version files must be; unfinished files on local disk must be
            unchanged for as long, and those of writers that live stay in any case.

        Raises
        ------
        InvalidInputError
            A negative grace.
        """
        if not isinstance(grace, timedelta) or grace < timedelta(0):
            raise InvalidInputError(f"grace must be a timedelta of 0 or more, not {grace!r}")
        self._require_writable()
        self._require_alone("collect_garbage")
        return collect(self._store, self._log.of_line(0), grace.total_seconds(), dry_run=dry_run)

    def verify(self, *, data: bool = True, progress: Progress | None = None) -> VerificationReport:
        """Check this version: every reference, size, checksum, count and bound, and every index.

        Parameters
        ----------
        data
            Read all data and index files as well; otherwise metadata alone is checked.
        progress
            Called with ``("verify", fragments done, fragments in all)``.

        Returns
        -------
        VerificationReport
            With every problem found, each naming the object it is in. Only a store that fails raises.
        """
        snapshot = self._snapshot
        report = VerificationReport(version=self.version)
        fragments: list[Fragment] = []
        report.problems += check_metadata(snapshot, fragments)
        report.fragments = len(fragments)
        if not data:
            return report
        checked: set[str] = set()
        for done, fragment in enumerate(fragments):
            report.problems += self._engine.check_fragment(snapshot, fragment, checked)
            report.files = len(checked)
            if progress is not None:
                progress("verify", done + 1, len(fragments))
        for entry in snapshot.version.indexes:
            for shard in entry.shards:
                report.problems += self._engine.check_shard(self._store, shard)
            report.indexes += 1
        report.problems += self._engine.check_keys(snapshot)
        return report

    def _compact_group(
        self, wanted: list[Fragment], progress: Progress | None, report: CompactionReport
    ) -> None:
        snapshot = self.refresh().snapshot
        sources = [snapshot.fragments.by_id(fragment.fragment_id) for fragment in wanted]
        found = tuple(source for source in sources if source is not None)
        if len(found) < len(wanted):
            report.yielded += 1
            return
        request = RewriteRequest(
            fragments=found,
            clustering=clustering_of(snapshot.version.properties, snapshot.schema),
            progress=progress,
            new_id=self._around.new_id,
        )
        self._rewrite_group(snapshot, request, "compact", report)

    def _rewrite_group(
        self, snapshot: Snapshot, request: RewriteRequest, kind: str, report: CompactionReport
    ) -> None:
        """Write fragments anew and put the new ones in their places, as one commit."""
        rewritten = self._engine.rewrite(snapshot, request)
        if not rewritten:  # a fragment without live rows is no part of a table
            return
        if self._replaced(snapshot, request.fragments, rewritten, kind):
            report.fragments_removed += len(request.fragments)
            report.fragments_added += len(rewritten)
            report.rows += sum(new.fragment.row_count for new in rewritten)
            report.bytes_written += sum(group.size for new in rewritten for group in new.fragment.groups)
            report.commits += 1
        else:
            report.yielded += 1

    def _replaced(
        self, snapshot: Snapshot, sources: tuple[Fragment, ...], rewritten: tuple[Rewritten, ...], kind: str
    ) -> bool:
        rows = sum(new.fragment.row_count for new in rewritten)
        summary = {"fragments_removed": len(sources), "rows": rows}
        change = CompactFragments(sources=sources, rewritten=rewritten, kind=kind, summary=summary)
        try:
            self._commit(change, base=snapshot.version)
        except ConflictError as error:
            files = [group for new in rewritten for group in new.fragment.groups]
            self._engine.discard_files(self._store, files)
            if isinstance(error, YieldedError):
                return False
            raise
        return True


def _positive(name: str, given: int | None, default: int) -> int:
    if given is None:
        return default
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidInputError(f"{name} must be a positive whole number, not {given!r}")
    return given


def _share(given: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
        raise InvalidInputError(f"deleted_share must be above 0 and at most 1, not {given!r}")
    return float(given)
