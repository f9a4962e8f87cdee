"""What no version needs any more: the commit that lets versions expire, and finding what may then be removed.

Removing is done by whoever calls :func:`collect`; it never looks at data, only at version objects and manifests
(spec/upkeep.md, UPK-4 to UPK-8; spec/identity.md, IDN-19).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

from lake_format.checkpoint import BLOCK, block_start
from lake_format.draft import Draft
from lake_format.lines import needed_versions
from lake_format.log import ExpiredError, VersionLog
from lake_format.manifest import decode_manifest, named_files
from lake_format.model import FILE_COLUMNS, ManifestReference, Version
from lake_format.operation_record import OperationRecord
from lake_format.paths import (
    DATA,
    INDEXES,
    JOBS,
    KEYS,
    LINES,
    MANIFESTS,
    checkpoint_number,
    history_folder,
    job_plan_path,
    line_number,
    version_number,
    version_path,
    versions_folder,
)
from lake_format.pins import pinned_versions
from lake_format.snapshot import Snapshot
from lake_format.store.base import ByteRange, ObjectInfo, Store
from lake_format.store.paths import is_external
from lake_format.store.table_store import TableStore
from lake_format.tombstone import Tombstone, encode_tombstone

__all__ = ["ExpireVersions", "ExpiryReport", "GarbageReport", "KeepsLeftovers", "collect"]

_COLLECTED = (DATA, MANIFESTS, INDEXES, KEYS)
"""Folders in which an object that no version names may be removed; whatever else lies in the table stays."""


@runtime_checkable
class KeepsLeftovers(Protocol):
    """A store in which killed writers may leave unfinished files."""

    def remove_leftovers(self, older_than: float) -> int:
        """Remove unfinished files unchanged for so many seconds; return how many."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryReport:
    """What expired.

    Attributes
    ----------
    horizon
        The oldest version kept, tags aside; 1 where nothing ever expired.
    expired
        How many versions expired now.
    """

    horizon: int
    expired: int


@dataclass(slots=True, kw_only=True)
class GarbageReport:
    """What was removed, or would be.

    Attributes
    ----------
    dry_run
        Whether nothing was touched.
    versions
        Numbers of expired versions of main that became tombstones.
    branch_versions
        The same for branches, those deleted included: line and number.
    objects
        Paths removed, in order.
    bytes
        Their size.
    leftovers
        Unfinished files of killed writers removed; 0 in a dry run.
    """

    dry_run: bool
    versions: list[int] = field(default_factory=list)
    branch_versions: list[tuple[int, int]] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    bytes: int = 0
    leftovers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpireVersions:
    """Let the versions before ``horizon`` expire, tagged ones excepted."""

    horizon: int
    summary: Mapping[str, Any]
    record: OperationRecord = field(default_factory=lambda: OperationRecord(kind="expire"))

    def apply(self, draft: Draft) -> OperationRecord:
        """Raise the horizon."""
        draft.raise_horizon(self.horizon)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """A tag that was set meanwhile keeps its version whatever the horizon is."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A line with versions that are needed: main, or a branch."""

    log: VersionLog
    newest: int
    horizon: int
    kept: frozenset[int]
    """Numbers of the versions whose files are needed."""
    objects: Mapping[int, ObjectInfo]
    """What is stored of the line's versions, by number."""

    @property
    def expired(self) -> list[int]:
        """Numbers of versions that nobody needs, ascending."""
        return sorted(n for n in self.objects if n < self.horizon and n not in self.kept)

    @property
    def begin(self) -> float:
        """When, by the store's clock, the oldest version was written on which a writer may be at work."""
        oldest = self.objects.get(max(self.horizon, 1))
        return 0.0 if oldest is None else oldest.modified_at


def collect(store: Store, main: VersionLog, grace: float, *, dry_run: bool) -> GarbageReport:
    """Find what no kept version of any line needs and, unless it is a dry run, remove it.

    Tombstones come first: whoever opens an expired version is told so, rather than meeting missing files. The
    order of reading matters (spec/branches.md, BRA-9; spec/copies.md, CPY-10): branches that ended, then main, then
    the living branches, then the pins of clones.

    Parameters
    ----------
    main
        The versions of main.
    grace
        Seconds by which an object must be older than the version object at the horizon, by the store's clock.
    """
    report = GarbageReport(dry_run=dry_run)
    ended = _ended_lines(store, main)
    newest = main.latest()
    living = list(_living_lines(store, main, newest))
    pinned = pinned_versions(store)
    known = {line.log.line for line in living}
    living = [replace(line, kept=line.kept | pinned.get(line.log.line, frozenset())) for line in living]
    ended = [
        replace(
            line,
            kept=needed_versions(newest.branches, line.log.line) | pinned.get(line.log.line, frozenset()),
        )
        for line in ended
        if line.log.line not in known
    ]
    everything = {info.path: info for folder in _COLLECTED for info in store.list(folder)}
    named = _named_by_expired(store, ended, everything)
    for line in (*living, *ended):
        _bury(store, line, report)
    limit = min(line.begin for line in living) - grace if newest.horizon else 0.0
    candidates = {
        path: info for path, info in everything.items() if info.modified_at < limit or path in named
    }
    _spare_needed(store, [(line.log, line.kept) for line in (*living, *ended)], candidates)
    _remove(store, candidates, report)
    _remove_jobs(store, limit, report)
    for line in (*living, *ended):
        if line.horizon:
            _remove_checkpoints(store, line, report)
    home = TableStore.around(store).home
    if not dry_run and isinstance(home, KeepsLeftovers):
        report.leftovers = home.remove_leftovers(max(grace, 1.0))
    return report


def _living_lines(store: Store, main: VersionLog, newest: Version) -> Iterator[_Line]:
    """Main and the branches that it lists."""
    yield _Line(
        log=main,
        newest=newest.version,
        horizon=newest.horizon,
        kept=_kept(newest, newest.horizon) | needed_versions(newest.branches, 0),
        objects=_objects(store, main),
    )
    for entry in newest.branches.values():
        log = main.of_line(entry.line)
        last = log.latest()
        kept = _kept(last, entry.horizon) | needed_versions(newest.branches, entry.line)
        yield _Line(
            log=log, newest=last.version, horizon=entry.horizon, kept=kept, objects=_objects(store, log)
        )


def _kept(newest: Version, horizon: int) -> frozenset[int]:
    # By number, not by listing: a listing may lag.
    return frozenset(range(max(horizon, 1), newest.version + 1)) | frozenset(newest.refs.values())


def _ended_lines(store: Store, main: VersionLog) -> list[_Line]:
    """Lines of branches that were deleted; all of their versions but the last have expired."""
    found = []
    numbers = [line for info in store.list(LINES) if (line := line_number(info.path)) is not None]
    for number in numbers:
        log = main.of_line(number)
        objects = _objects(store, log)
        last = log.find(max(objects)) if objects else None
        if last is not None and last.is_end:
            at = last.version
            found.append(_Line(log=log, newest=at, horizon=at, kept=frozenset(), objects=objects))
    return found


def _objects(store: Store, log: VersionLog) -> dict[int, ObjectInfo]:
    infos = store.list(versions_folder(log.line))
    return {number: info for info in infos if (number := version_number(info.path, log.line))}


def _named_by_expired(store: Store, ended: list[_Line], everything: dict[str, ObjectInfo]) -> set[str]:
    """What deleted branches named: nobody can be about to use it, however young it is."""
    others = dict(everything)
    _spare_needed(store, [(line.log, frozenset(line.expired)) for line in ended], others)
    return everything.keys() - others.keys()


def _bury(store: Store, line: _Line, report: GarbageReport) -> None:
    for number in line.expired:
        version = line.log.find(number)
        if version is None:  # buried already
            continue
        if line.log.line:
            report.branch_versions.append((line.log.line, number))
        else:
            report.versions.append(number)
        if not report.dry_run:
            stone = Tombstone(
                table_id=version.table_id,
                version=number,
                commit_id=version.commit_id,
                committed_at=version.committed_at,
                horizon=line.horizon,
            )
            store.put(version_path(number, line.log.line), encode_tombstone(stone))


def _remove(store: Store, candidates: Mapping[str, ObjectInfo], report: GarbageReport) -> None:
    for path in sorted(candidates):
        report.objects.append(path)
        report.bytes += candidates[path].size
        if not report.dry_run:
            store.delete(path)


def _remove_jobs(store: Store, limit: float, report: GarbageReport) -> None:
    """Remove jobs that can never commit: their plan is older than the horizon, so it was made for an expired version.

    The plan goes last, so that a job begun under the same name takes up no records of this one.
    """
    jobs: dict[str, list[ObjectInfo]] = {}
    for info in list(store.list(JOBS)):
        jobs.setdefault(info.path.removeprefix(JOBS).partition("/")[0], []).append(info)
    for name, objects in sorted(jobs.items()):
        plans = [info for info in objects if info.path == job_plan_path(name)]
        if not all(info.modified_at < limit for info in plans or objects):
            continue
        for info in [*(one for one in objects if one not in plans), *plans]:
            report.objects.append(info.path)
            report.bytes += info.size
            if not report.dry_run:
                store.delete(info.path)


def _remove_checkpoints(store: Store, line: _Line, report: GarbageReport) -> None:
    """Remove history checkpoints that later ones replace, and those that tell of expired versions only."""
    current = block_start(line.newest)
    for info in list(store.list(history_folder(line.log.line))):
        number = checkpoint_number(info.path, line.log.line)
        if number is None or number > current:
            continue
        told = range(block_start(number) + 1, number + 1)
        expired = number < line.horizon and not any(kept in told for kept in line.kept)
        if number % BLOCK or expired:
            report.objects.append(info.path)
            report.bytes += info.size
            if not report.dry_run:
                store.delete(info.path)


def _spare_needed(
    store: Store, versions: list[tuple[VersionLog, frozenset[int]]], candidates: dict[str, ObjectInfo]
) -> None:
    """Take out of the candidates whatever one of these versions, by line and number, names.

    A fragment of a stored manifest is needed if at least one kept version has not removed it.
    """
    stored: dict[str, tuple[ManifestReference, frozenset[int]]] = {}
    for log, number in ((log, number) for log, numbers in versions for number in sorted(numbers)):
        if not candidates:
            return
        try:
            version = log.read(number)
        except ExpiredError:  # by now: another collector works from a later horizon
            continue
        for path in _named(version):
            candidates.pop(path, None)
        for reference in version.manifests:
            if reference.path is None:
                _spare(reference, reference.body or b"", frozenset(reference.removed), candidates)
            elif not is_external(reference.path):  # one in another root names nothing in this one
                removed = frozenset(reference.removed)
                known = stored.get(reference.path)
                stored[reference.path] = (reference, removed if known is None else known[1] & removed)
    for path, (reference, removed) in stored.items():
        if not candidates:
            return
        data = store.get_ranges([ByteRange(path, 0, reference.size)])[0]
        _spare(reference, data, removed, candidates)


def _named(version: Version) -> Iterator[str]:
    """Objects a version object names itself."""
    for reference in version.manifests:
        if reference.path is not None:
            yield reference.path
    for entry in version.indexes:
        yield from (shard.path for shard in entry.shards)
    if version.key_index is not None:
        yield from version.key_index.paths()
    for record in version.operations:
        place = record.get("key_hashes_at")
        if isinstance(place, str):
            yield place


def _spare(
    reference: ManifestReference, data: bytes, removed: frozenset[int], candidates: dict[str, ObjectInfo]
) -> None:
    table = decode_manifest(data, reference)
    ids = table.column("fragment_id").to_pylist()
    for name in FILE_COLUMNS:
        owners, files = named_files(table, name)
        for owner, path in zip(owners.to_pylist(), files.field("path").to_pylist(), strict=True):
            if ids[owner] not in removed:
                candidates.pop(path, None)
