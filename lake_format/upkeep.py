"""What no version needs any more: the commit that lets versions expire, and finding what may then be removed.

Removing is done by whoever calls :func:`collect`; it never looks at data, only at version objects and manifests
(spec/upkeep.md, UPK-4 to UPK-8; spec/identity.md, IDN-19).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from lake_format.checkpoint import BLOCK, block_start
from lake_format.draft import Draft
from lake_format.history import is_kept
from lake_format.log import ExpiredError, VersionLog
from lake_format.manifest import decode_manifest, named_files
from lake_format.model import FILE_COLUMNS, ManifestReference, Version
from lake_format.operation_record import OperationRecord
from lake_format.paths import (
    DATA,
    HISTORY,
    INDEXES,
    JOBS,
    KEYS,
    MANIFESTS,
    VERSIONS,
    checkpoint_number,
    job_plan_path,
    version_number,
    version_path,
)
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
        Numbers of expired versions that became tombstones.
    objects
        Paths removed, in order.
    bytes
        Their size.
    leftovers
        Unfinished files of killed writers removed; 0 in a dry run.
    """

    dry_run: bool
    versions: list[int] = field(default_factory=list)
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


def collect(store: Store, log: VersionLog, newest: Version, grace: float, *, dry_run: bool) -> GarbageReport:
    """Find what no kept version needs and, unless it is a dry run, remove it.

    Tombstones come first: whoever opens an expired version is told so, rather than meeting missing files.

    Parameters
    ----------
    grace
        Seconds by which an object must be older than the version object at the horizon, by the store's clock.
    """
    report = GarbageReport(dry_run=dry_run)
    if newest.horizon:
        infos = {number: info for info in store.list(VERSIONS) if (number := version_number(info.path))}
        _bury(store, log, newest, sorted(infos), report)
        limit = infos[newest.horizon].modified_at - grace if newest.horizon in infos else 0.0
        _remove_unneeded(store, log, newest, limit, report)
        _remove_jobs(store, limit, report)
        _remove_checkpoints(store, newest, report)
    home = TableStore.around(store).home
    if not dry_run and isinstance(home, KeepsLeftovers):
        report.leftovers = home.remove_leftovers(max(grace, 1.0))
    return report


def _bury(store: Store, log: VersionLog, newest: Version, numbers: list[int], report: GarbageReport) -> None:
    for number in numbers:
        if is_kept(newest, number) or number > newest.version:
            continue
        version = log.find(number)
        if version is None:  # buried already
            continue
        report.versions.append(number)
        if not report.dry_run:
            stone = Tombstone(
                table_id=version.table_id,
                version=number,
                commit_id=version.commit_id,
                committed_at=version.committed_at,
                horizon=newest.horizon,
            )
            store.put(version_path(number), encode_tombstone(stone))


def _remove_unneeded(
    store: Store, log: VersionLog, newest: Version, limit: float, report: GarbageReport
) -> None:
    candidates = {info.path: info for folder in _COLLECTED for info in store.list(folder)}
    candidates = {path: info for path, info in candidates.items() if info.modified_at < limit}
    _spare_needed(store, log, newest, candidates)
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


def _remove_checkpoints(store: Store, newest: Version, report: GarbageReport) -> None:
    """Remove history checkpoints that later ones replace, and those that tell of expired versions only."""
    current = block_start(newest.version)
    for info in list(store.list(HISTORY)):
        number = checkpoint_number(info.path)
        if number is None or number > current:
            continue
        told = range(block_start(number) + 1, number + 1)
        expired = number < newest.horizon and not any(tag in told for tag in newest.refs.values())
        if number % BLOCK or expired:
            report.objects.append(info.path)
            report.bytes += info.size
            if not report.dry_run:
                store.delete(info.path)


def _spare_needed(store: Store, log: VersionLog, newest: Version, candidates: dict[str, ObjectInfo]) -> None:
    """Take out of the candidates whatever a kept version names.

    A fragment of a stored manifest is needed if at least one kept version has not removed it.
    """
    stored: dict[str, tuple[ManifestReference, frozenset[int]]] = {}
    # By number, not by listing: a listing may lag.
    for number in sorted({*range(newest.horizon, newest.version + 1), *newest.refs.values()}):
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
