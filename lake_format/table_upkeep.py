"""The upkeep side of a table: let versions expire, collect garbage, verify what is stored."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from lake_format.branches import ChangeEntry
from lake_format.engine import Progress
from lake_format.errors import InvalidInputError, NotFoundError
from lake_format.history import moment_of
from lake_format.lines import needed_versions
from lake_format.model import Fragment, Version
from lake_format.table_compaction import TableCompaction, positive
from lake_format.timeline import version_at
from lake_format.transaction import YieldedError
from lake_format.upkeep import ExpireVersions, ExpiryReport, GarbageReport, collect
from lake_format.verification import VerificationReport, check_metadata

__all__ = ["TableUpkeep"]


class TableUpkeep(TableCompaction):
    """What keeps a table small and sound; users' work always goes first."""

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
        before, oldest = max(newest.horizon, 1), newest.version - positive("keep", keep, 1) + 1
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
