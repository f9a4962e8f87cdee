"""What a merge takes from a branch, and whether it may: operations read from both lines and judged pair by pair.

The base is the version of the branch that was merged last, or its first: everything the branch did since is taken.
The other line's operations count from the fork on, but for those that came from this branch (spec/identity.md,
CON-11).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from lake_format.conflicts import Action, Decision, decide
from lake_format.errors import ConflictError
from lake_format.id_ranges import IdRanges, common, from_runs, ids_of, union, without
from lake_format.log import VersionLog
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.parallel import run_all
from lake_format.row_edits import MAX_RUNS
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot
from lake_format.transaction import with_key_hashes

__all__ = ["LEFT_OUT", "MergePlan", "plan_merge"]

LEFT_OUT = frozenset({"compact", "cluster", "optimize_index", "expire", "set_ref", "set_properties"})
"""Kinds of operations of a branch that a merge leaves where they are."""
_AT_ONCE = 256
"""So many versions are held in memory while operations are read."""
_SHOWN_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """What is to be taken.

    Attributes
    ----------
    name
        The branch.
    base, newest
        Two versions of it: what happened between them is taken.
    operations
        The operations that are taken, in order.
    overtook
        Those of the other line that the branch has not seen.
    updated
        Rows that got new values on the branch, each set with the fields that did.
    """

    name: str
    base: Snapshot
    newest: Snapshot
    operations: tuple[OperationRecord, ...]
    overtook: tuple[OperationRecord, ...]
    updated: tuple[tuple[frozenset[int], IdRanges], ...]

    @property
    def line(self) -> int:
        """The branch's line."""
        return self.newest.version.line


def plan_merge(
    name: str, branch: VersionLog, target: VersionLog, newest: Version, into: Version, manifests: ManifestSet
) -> MergePlan | None:
    """Read what a merge takes and judge it; None where there is nothing to take.

    Parameters
    ----------
    branch, newest
        The versions of the branch, and the newest of them.
    target, into
        The versions of the line it was made from, and the newest of them.

    Raises
    ------
    ConflictError
        The two lines do not go together: kind, columns and rows are named. Or versions that would have to be looked
        at have expired.
    """
    assert newest.origin is not None
    merged, fork = into.merges.get(newest.line, 1), newest.origin.parent_version
    if merged >= newest.version:
        return None
    for what, first, line in (("branch " + repr(name), merged, newest), ("the table", fork + 1, into)):
        if first < line.horizon:
            raise ConflictError(
                f"{what} has let versions from {first} on expire, so that what was done in them cannot be told",
                fix="append the branch's rows anew, from lake.open(uri, branch=…)",
            )
    base = branch.read(merged)
    taken = [
        record
        for version in _versions(branch, merged + 1, newest, manifests)
        for record in _records(version)
        if record.kind not in LEFT_OUT
    ]
    if not taken:
        return None
    overtook: list[OperationRecord] = []
    before = None
    for version in _versions(target, fork, into, manifests):
        now = version.merges.get(newest.line)
        if version.version > fork and now == before:
            overtook += _records(version)
        before = now
    if any(record.key_hashes or record.key_hashes_at for record in taken):
        taken = [with_key_hashes(manifests.store, record) for record in taken]
        overtook = [with_key_hashes(manifests.store, record) for record in overtook]
    _judge(name, taken, overtook, (newest, into))
    store = manifests.store
    return MergePlan(
        name=name,
        base=Snapshot(store, base, manifests),
        newest=Snapshot(store, newest, manifests),
        operations=tuple(taken),
        overtook=tuple(overtook),
        updated=tuple(_updated(taken)),
    )


def _versions(log: VersionLog, first: int, newest: Version, manifests: ManifestSet) -> Iterator[Version]:
    """Versions of a line from a number to the newest, in order; read side by side from a store far away."""
    remote = manifests.store.local_path("_lake/latest") is None
    for start in range(first, newest.version, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, newest.version))
        yield from run_all([partial(log.read, number) for number in numbers], together=remote)
    yield newest


def _records(version: Version) -> list[OperationRecord]:
    return [OperationRecord.from_json(raw) for raw in version.operations]


def _updated(records: Sequence[OperationRecord]) -> Iterator[tuple[frozenset[int], IdRanges]]:
    """Disjoint sets of rows, each with all the fields that these operations wrote in them."""
    sets: dict[frozenset[int], IdRanges] = {}
    for record in records:
        rows = from_runs(record.rows_updated)
        after: dict[frozenset[int], list[IdRanges]] = {}
        for fields, known in sets.items():
            after.setdefault(fields, []).append(without(known, rows))
            after.setdefault(fields | record.fields_written, []).append(common(known, rows))
        after.setdefault(record.fields_written, []).append(without(rows, union(sets.values())))
        together = {fields: union(parts) for fields, parts in after.items()}
        sets = {fields: ranges for fields, ranges in together.items() if len(ranges[0])}
    yield from sets.items()


# --- judging ------------------------------------------------------------------------------------------------


def _judge(
    name: str,
    taken: Sequence[OperationRecord],
    overtook: Sequence[OperationRecord],
    versions: tuple[Version, Version],
) -> None:
    """Raise ConflictError for the first pair of operations that do not follow each other as they are."""
    if any(record.kind == "restore" for record in taken):
        raise ConflictError(
            f"branch {name!r} was restored to an older version, which cannot be merged",
            fix="make another branch, and do there what the restored version is to have",
        )
    serializable = versions[1].properties.get("write.isolation") == "serializable"
    for theirs in overtook:
        for mine in taken:
            decision = decide(mine, theirs, serializable=serializable)
            if decision.action.strength >= Action.YIELD.strength:
                raise _refusal(name, mine, theirs, decision.text, versions)
            if _told_coarsely(mine, theirs, decision):
                raise _refusal(name, mine, theirs, "both update too many rows to be told apart", versions)


def _told_coarsely(mine: OperationRecord, theirs: OperationRecord, decision: Decision) -> bool:
    """Whether rows that ``mine`` only may have written got values that its own would replace (CON-3)."""
    coarse = len(mine.rows_updated.first) >= MAX_RUNS and decision.action is Action.REMAP
    return (
        coarse
        and not mine.fields_written.isdisjoint(theirs.fields_written)
        and mine.rows_updated.overlaps(theirs.rows_updated)
    )


def _refusal(
    name: str,
    mine: OperationRecord,
    theirs: OperationRecord,
    why: str,
    versions: tuple[Version, Version],
) -> ConflictError:
    fields = mine.fields_written & (theirs.fields_written | theirs.fields_read | theirs.fields_required)
    fields |= (mine.fields_read | mine.fields_required) & theirs.fields_written
    names = sorted({_name(identity, versions) for identity in fields})
    both = common(
        from_runs(mine.rows_updated), union(map(from_runs, (theirs.rows_updated, theirs.rows_deleted)))
    )
    where = f"; columns: {', '.join(names)}" if names else ""
    where += f"; rows: {_shown(both)}" if len(both[0]) else ""
    return ConflictError(
        f"branch {name!r} cannot be merged: its {mine.kind} meets {theirs.kind} on the other line: "
        f"{why.rpartition(': ')[2]}{where}",
        fix="nothing was written; do the branch's work on a new branch, or undo one of the two",
    )


def _shown(rows: IdRanges) -> str:
    count = int((rows[1] - rows[0]).sum())
    few = ids_of((rows[0][:_SHOWN_ROWS], rows[1][:_SHOWN_ROWS].clip(max=rows[0][:_SHOWN_ROWS] + _SHOWN_ROWS)))
    text = ", ".join(str(one) for one in few[:_SHOWN_ROWS].tolist())
    return text if count <= _SHOWN_ROWS else f"{text}, … ({count:,} in all)"


def _name(identity: int, versions: tuple[Version, Version]) -> str:
    schemas: list[pa.Schema] = [version.schema for version in versions]
    found = next((one for schema in schemas if (one := field_by_id(schema, identity)) is not None), None)
    return f"field {identity}" if found is None else repr(found.name)
