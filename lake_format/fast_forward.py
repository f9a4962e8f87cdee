"""The commit that brings main to where a branch is, possible only while main has nothing of its own to lose.

Everything is taken by reference, row ids included; no data file and no manifest is read (spec/branches.md, BRA-13).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lake_format.branches import listed, require_forkable
from lake_format.draft import Draft
from lake_format.errors import ConflictError, NotFoundError
from lake_format.keys import key_field_ids
from lake_format.log import VersionLog
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot

__all__ = ["FastForward", "require_nothing_new"]

_UPKEEP = frozenset({"compact", "cluster", "optimize_index", "expire", "set_ref"})
"""Kinds of operations that leave a table's rows, columns and properties what they are."""


def require_nothing_new(log: VersionLog, newest: Version, branch: Version) -> None:
    """Raise ConflictError if main got anything since the branch was made that the branch does not have.

    Parameters
    ----------
    log, newest
        Main's versions, and the newest of them.
    branch
        Any version of the branch.
    """
    assert branch.origin is not None
    name, fork = branch.origin.name, branch.origin.parent_version
    if fork + 1 < newest.horizon:
        raise ConflictError(
            f"versions of main after {fork}, where branch {name!r} was made, have expired unread",
            fix="make a new branch and write its rows anew",
        )
    taken = None
    for number in range(fork, newest.version + 1):
        version = newest if number == newest.version else log.read(number)
        before, taken = taken, version.merges.get(branch.line)
        if number == fork or before != taken:  # the fork itself, and what came from the branch
            continue
        kinds = {str(record.get("kind")) for record in version.operations} - _UPKEEP
        if kinds:
            raise ConflictError(
                f"main has gone on since branch {name!r} was made: {', '.join(sorted(kinds))} in version {number}",
                fix="main can only be moved to a branch while it has nothing the branch lacks",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FastForward:
    """Make the schema, rows and indexes of a branch main's.

    Attributes
    ----------
    branch
        The version of the branch that main becomes.
    """

    branch: Version
    summary: Mapping[str, Any]
    record: OperationRecord = field(default_factory=lambda: OperationRecord(kind="restore"))

    def apply(self, draft: Draft) -> OperationRecord:
        """Take over what the branch lists, if main still lists the branch and keeps that version of it."""
        origin = self.branch.origin
        assert origin is not None
        if listed(draft.version, origin.name).line != origin.line:
            raise NotFoundError(f"the branch {origin.name!r} was deleted, and another made, meanwhile")
        require_forkable(draft.version, origin.line, self.branch.version)
        if key_field_ids(draft.version.properties) != key_field_ids(self.branch.properties):
            raise ConflictError(
                f"main and branch {origin.name!r} have different keys",
                fix="declare the same key on both with set_key()",
            )
        draft.restore(self.branch)
        draft.mark_merged(origin.line, self.branch)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """The branch's version is what it is."""
        return self
