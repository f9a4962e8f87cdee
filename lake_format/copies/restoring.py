"""A live table made from a backup: objects first, then the version that makes them a table, then what precedes it.

Each step can be interrupted and done again. Numbers that the backup does not hold get tombstones, so that they stay
taken as in the table they come from (spec/copies.md, CPY-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lake_format.codec import encode_version
from lake_format.copies.copying import Wanted, copy_objects, reported
from lake_format.copies.inventory import Inventory
from lake_format.copies.needs import needs_of
from lake_format.engine import Progress
from lake_format.errors import AlreadyExistsError, CorruptionError, NotFoundError
from lake_format.log import VersionLog
from lake_format.model import Version
from lake_format.parallel import in_order
from lake_format.paths import DATA, INDEXES, KEYS, MANIFESTS, version_path
from lake_format.store.base import Store
from lake_format.store.probe import create_first
from lake_format.tombstone import Tombstone, encode_tombstone

__all__ = ["restore"]

_AT_ONCE = 16


def restore(backup: Store, target: Store, number: int | None, progress: Progress | None = None) -> Version:
    """Make a table in ``target`` from a version of a backup, and from those its tags name; return its newest version.

    Raises
    ------
    NotFoundError
        There is no backup, or it does not hold that version.
    AlreadyExistsError
        There is another table in the target.
    CorruptionError
        An object of the backup is missing or is not what was copied there. No table is made.
    """
    inventory = Inventory(backup)
    newest, tagged = _chosen(inventory, number)
    versions = {one.version: one for one in (*tagged, newest)}
    newest = _without_gaps(newest, versions)
    log = VersionLog(target)
    resumed = _is_resumed(log, newest)
    _bring(inventory, target, [*tagged, newest], progress)
    if not resumed:
        create_first(target, version_path(newest.version), encode_version(newest))
    _fill(target, newest, versions)
    log.publish_hint(newest)
    return newest


def _chosen(inventory: Inventory, number: int | None) -> tuple[Version, list[Version]]:
    """The version to restore, and those its tags name."""
    inventory.table_id()
    held = inventory.numbers()
    chosen = held[-1] if held and number is None else number
    version = None if chosen is None else inventory.version(chosen)
    if version is None:
        what = "no version" if number is None else f"no version {number}"
        known = ", ".join(map(str, held)) or "none is complete"
        raise NotFoundError(f"the backup {inventory.store.uri} holds {what}", fix=f"versions are: {known}")
    tagged = []
    for one in sorted({*version.refs.values()}):
        found = inventory.version(one)
        if found is None:
            raise CorruptionError(f"the backup {inventory.store.uri} lost version {one}, which a tag names")
        tagged.append(found)
    return version, tagged


def _without_gaps(newest: Version, versions: Mapping[int, Version]) -> Version:
    """The newest version; where one before it is missing, all before it have expired but those its tags name."""
    if all(number in versions for number in range(max(newest.horizon, 1), newest.version)):
        return newest
    return replace(
        newest,
        horizon=newest.version,
        required_features=newest.required_features | {"expired-versions"},
    )


def _is_resumed(log: VersionLog, newest: Version) -> bool:
    """Whether an earlier attempt has made the table; AlreadyExistsError where another one is there."""
    numbers = log.numbers()
    if not numbers:
        return False
    if numbers[-1] != newest.version or log.find(newest.version) != newest:
        raise AlreadyExistsError(
            f"there is a table at {log.uri} already",
            fix="restore to an empty place, then put it where you want it",
        )
    return True


def _bring(inventory: Inventory, target: Store, versions: list[Version], progress: Progress | None) -> None:
    """Copy what the versions need; each object must be what was copied into the backup."""
    wanted: dict[str, Wanted] = {}
    for version in versions:
        for one in needs_of(inventory.store, version).copies:
            known = inventory.recorded.get(one.path)
            if known is None or one.size not in (None, known.size):
                raise CorruptionError(f"the backup {inventory.store.uri} has no record of {one.path!r}")
            wanted[one.path] = Wanted(one.source, one.path, known.size, known.digest)
    present = {info.path for folder in (DATA, MANIFESTS, INDEXES, KEYS) for info in target.list(folder)}
    total = sum(one.size or 0 for one in wanted.values())
    copies = copy_objects(inventory.store, target, wanted.values(), present)
    for _ in reported(copies, progress, "restore", total):
        pass


def _fill(target: Store, newest: Version, versions: Mapping[int, Version]) -> None:
    """Take every number before the newest version: with the version it is, or with a tombstone.

    From the last to the first: a reader without a hint starts at version 1, which must lead it to the newest.
    """

    def fill(number: int) -> None:
        version = versions.get(number)
        stone = Tombstone(
            table_id=newest.table_id,
            version=number,
            commit_id=newest.commit_id,
            committed_at=newest.committed_at,
            horizon=newest.version,
        )
        data = encode_tombstone(stone) if version is None else encode_version(version)
        try:
            target.create(version_path(number), data)
        except AlreadyExistsError:
            if target.get(version_path(number)) != data:
                raise

    for _ in in_order(fill, range(newest.version - 1, 1, -1), _AT_ONCE):
        pass
    if newest.version > 1:
        fill(1)
