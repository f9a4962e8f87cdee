"""A version copied into a backup: only what is not there, compared, and complete or not there at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lake_format.copies.copying import Copied, Wanted, copy_objects, digest, reported
from lake_format.copies.inventory import Inventory
from lake_format.copies.needs import Needs, needs_of
from lake_format.engine import Progress
from lake_format.errors import AlreadyExistsError, CorruptionError
from lake_format.log import VersionLog
from lake_format.model import Version
from lake_format.store.base import Store

__all__ = ["BackupReport", "back_up"]

_RECORDED_AT_ONCE = 1_000
"""After so many copies their checksums are kept, so that an interrupted backup need not compare them again."""


@dataclass(slots=True, kw_only=True)
class BackupReport:
    """What a backup did.

    Attributes
    ----------
    version
        The version that was asked for.
    versions
        Versions that are complete in the backup by now and were not before: that one, and those its tags name.
    copied, copied_bytes
        Objects written, and their size.
    kept, kept_bytes
        Objects those versions need that the backup had already.
    """

    version: int
    versions: list[int] = field(default_factory=list)
    copied: int = 0
    copied_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0


def back_up(
    source: Store, log: VersionLog, version: Version, target: Store, progress: Progress | None = None
) -> BackupReport:
    """Copy a version, and those its tags name, with everything they need.

    Parameters
    ----------
    source
        The table's store, which may read the version's external roots: what lies there is copied as well.
    target
        A place for backups of this table alone.
    """
    inventory = Inventory(target)
    inventory.begin(version.table_id)
    report = BackupReport(version=version.version)
    wanted = {number: log.read(number) for number in sorted(set(version.refs.values()))}
    wanted[version.version] = version
    missing = [one for one in wanted.values() if not inventory.holds(one)]
    listed = inventory.listed() if missing else {}
    for one in missing:
        needs = needs_of(source, one)
        _bring(source, inventory, needs, listed, report, progress)
        inventory.finish(needs.version)
        report.versions.append(one.version)
    return report


def _bring(
    source: Store,
    inventory: Inventory,
    needs: Needs,
    listed: dict[str, int],
    report: BackupReport,
    progress: Progress | None,
) -> None:
    """Bring what a version needs and the backup lacks."""
    missing: list[Wanted] = []
    for one in needs.copies:
        known, size = inventory.recorded.get(one.path), listed.get(one.path)
        if one.size is not None and size not in (None, one.size):
            raise CorruptionError(
                f"{inventory.store.uri}/{one.path} has {size} bytes, not the {one.size} recorded for it",
                fix="give the backup a new place",
            )
        if known is not None and size == known.size:
            report.kept, report.kept_bytes = report.kept + 1, report.kept_bytes + known.size
        else:
            missing.append(one)
    total = sum(one.size or 0 for one in missing)
    copies = copy_objects(source, inventory.store, missing, listed.keys())
    for batch in _batches(reported(copies, progress, "backup", total)):
        _note(inventory, batch, listed, report)
    _note(inventory, _made(inventory, needs.made, listed), listed, report)


def _note(inventory: Inventory, copied: list[Copied], listed: dict[str, int], report: BackupReport) -> None:
    inventory.record(copied)
    listed.update({one.path: one.size for one in copied})
    for one in copied:
        if one.written:
            report.copied, report.copied_bytes = report.copied + 1, report.copied_bytes + one.size
        else:
            report.kept, report.kept_bytes = report.kept + 1, report.kept_bytes + one.size


def _made(inventory: Inventory, manifests: Mapping[str, bytes], listed: Mapping[str, int]) -> list[Copied]:
    """Write manifests made for the backup, as far as it lacks them; their names tell their content."""
    made = []
    for path, body in manifests.items():
        if path in listed and path in inventory.recorded:
            continue
        try:
            inventory.store.create(path, body)
        except AlreadyExistsError:
            made.append(Copied(path, len(body), digest(body), written=False))
        else:
            made.append(Copied(path, len(body), digest(body), written=True))
    return made


def _batches(copied: Iterable[Copied]) -> Iterable[list[Copied]]:
    batch: list[Copied] = []
    for one in copied:
        batch.append(one)
        if len(batch) == _RECORDED_AT_ONCE:
            yield batch
            batch = []
    yield batch
