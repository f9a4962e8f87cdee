"""Checks that a version hangs together: its manifests, fragments, row ids, schemas and indexes.

Metadata only; what the files hold is checked by the engine (spec/upkeep.md, UPK-8). Every problem is told with the
object it is in; the first one does not end the check.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lake_format.errors import CorruptionError, InvalidInputError, LakeError, NotFoundError, UnsupportedError
from lake_format.lines import BRANCH_FEATURE, LINE_IDS, line_of
from lake_format.manifest import FragmentTable
from lake_format.manifest_bounds import contradiction
from lake_format.model import Fragment, IndexEntry, Version
from lake_format.paths import version_path
from lake_format.positions import deleted_positions, patched_positions
from lake_format.row_ids import U64, decode_row_ids
from lake_format.row_locations import RowLocations
from lake_format.schema import field_by_id, field_id, walk_fields
from lake_format.snapshot import Snapshot

__all__ = ["WRONG", "Problem", "VerificationReport", "check_metadata"]


WRONG: tuple[type[LakeError], ...] = (CorruptionError, NotFoundError, UnsupportedError, InvalidInputError)
"""Errors that tell of stored bytes; others, of a store that fails, are no finding and end the check."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it must be.

    Attributes
    ----------
    path, what
        In which object, and what is wrong.
    derived
        Whether it is wrong in what is derived from the rows, so that it can be made anew from them.
    """

    path: str
    what: str
    derived: bool = False


@dataclass(slots=True, kw_only=True)
class VerificationReport:
    """What a check of a version found.

    Attributes
    ----------
    version
        The version checked.
    problems
        What is wrong; empty where everything is right.
    fragments, files, indexes
        How many of each were looked at.
    """

    version: int
    problems: list[Problem] = field(default_factory=list)
    fragments: int = 0
    files: int = 0
    indexes: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        found = {name: getattr(self, name) for name in ("version", "fragments", "files", "indexes")}
        return {**found, "problems": [{"path": one.path, "what": one.what} for one in self.problems]}


def check_metadata(snapshot: Snapshot, fragments: list[Fragment]) -> Iterator[Problem]:
    """Problems of a version's metadata; fills ``fragments`` with those that can be understood."""
    tables = []
    for reference in snapshot.version.manifests:
        try:
            table = snapshot.manifests.load([reference])
            fragments += [table.fragment(index) for index in range(len(table))]
            tables.append(table.table)
            if (denied := contradiction(reference, table)) is not None:
                yield Problem(
                    reference.path or _object_of(snapshot.version), f"the version says that {denied}"
                )
        except WRONG as error:
            yield Problem(reference.path or _object_of(snapshot.version), error.what)
    yield from _check_fragments(snapshot, fragments)
    if len(tables) == len(snapshot.version.manifests):
        yield from _check_whole(snapshot, FragmentTable(tables), fragments)
    for entry in snapshot.version.indexes:
        yield from _check_index(snapshot, entry)


def _check_fragments(snapshot: Snapshot, fragments: list[Fragment]) -> Iterator[Problem]:
    version = snapshot.version
    where = _object_of(version)
    seen: set[int] = set()
    for fragment in fragments:
        name = f"fragment {fragment.fragment_id}"
        if fragment.fragment_id in seen:
            yield Problem(where, f"{name} is listed twice")
        seen.add(fragment.fragment_id)
        if _never_given_out(np.array([fragment.fragment_id], np.uint64), version, version.next_fragment_id):
            yield Problem(where, f"{name} has an id that was never given out")
        for group in fragment.files():
            schema = version.schemas.get(group.schema_id)
            if schema is None or any(field_by_id(schema, one) is None for one in group.field_ids):
                yield Problem(group.path, f"{name} was written with a schema that does not describe it")
        try:
            deleted_positions(fragment)
            for patch in fragment.patches:
                patched_positions(fragment, patch)
            if _never_given_out(fragment.row_ids(), version, version.next_row_id):
                yield Problem(where, f"{name} has row ids that were never given out")
        except WRONG as error:
            yield Problem(where, f"{name}: {error.what}")


def _check_whole(snapshot: Snapshot, table: FragmentTable, fragments: list[Fragment]) -> Iterator[Problem]:
    version = snapshot.version
    where = _object_of(version)
    live = sum(fragment.row_count - fragment.deleted_count for fragment in fragments)
    if live != version.row_count:
        yield Problem(where, f"the version counts {version.row_count} rows, its fragments {live}")
    highest = max(
        (field_id(one) for schema in version.schemas.values() for one in walk_fields(schema)), default=0
    )
    if highest >= version.next_field_id:
        yield Problem(where, f"field {highest} has an id that was never given out")
    try:
        _ = RowLocations(table).runs
    except WRONG as error:
        yield Problem(where, error.what)


def _check_index(snapshot: Snapshot, entry: IndexEntry) -> Iterator[Problem]:
    where = _object_of(snapshot.version)
    if field_by_id(snapshot.schema, entry.field_id) is None:
        yield Problem(where, f"index {entry.name!r} is over field {entry.field_id}, which the table lacks")
    covered: list[U64] = []
    for shard in entry.shards:
        try:
            ids = decode_row_ids(shard.row_ids, shard.row_count)
        except WRONG as error:
            yield Problem(shard.path, error.what)
            continue
        if (ids[1:] <= ids[:-1]).any() or _never_given_out(
            ids, snapshot.version, snapshot.version.next_row_id
        ):
            yield Problem(shard.path, "the covered row ids do not ascend, or were never given out")
        covered.append(ids)
    everything = np.concatenate(covered) if covered else np.empty(0, np.uint64)
    if len(np.unique(everything)) < len(everything):
        yield Problem(where, f"two shards of index {entry.name!r} cover the same row")


def _object_of(version: Version) -> str:
    return version_path(version.version, version.line)


def _never_given_out(ids: U64, version: Version, following: int) -> bool:
    """Whether an id is one that this line has not given out yet; of other lines it knows nothing (IDN-3)."""
    past = ids[ids >= np.uint64(following)]
    if BRANCH_FEATURE not in version.required_features:
        return len(past) > 0
    return bool((past < np.uint64((line_of(following) + 1) * LINE_IDS)).any())
