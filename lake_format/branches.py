"""Branches of a table: found by name, made, listed and removed; all of it decided by commits on main.

Main's versions list the branches. A branch is made by writing its first version, which nobody looks for yet, and then
listing it; it ends by a last version of its own, after which no writer can add another, and is then taken off the
list. So whatever a collector, an expiry or a merge has to know lies in main's newest version, and commits on main
order them all (spec/branches.md has the argument).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from lake_format.draft import Draft
from lake_format.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from lake_format.history import is_tag, require_kept
from lake_format.lines import BRANCH_FEATURE, LINE_IDS, MAIN, BranchEntry, BranchOrigin, claim_line, line_of
from lake_format.log import ExpiredError, VersionLog
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot
from lake_format.store.base import Store
from lake_format.transaction import Surroundings

__all__ = ["ChangeEntry", "EndLine", "ListBranch", "UnlistBranch", "check_branch", "find_branch"]
__all__ += ["first_of_branch", "listed", "name_of_line", "require_forkable"]


def check_branch(name: object) -> str:
    """A name for a branch; InvalidInputError for what cannot be one."""
    if not is_tag(name) or name == MAIN:
        raise InvalidInputError(
            f"{name!r} cannot be the name of a branch",
            fix="use 1 to 128 letters, digits and _ . - /, starting with a letter, a digit or _, but not 'main'",
        )
    return str(name)


def listed(main: Version, name: str) -> BranchEntry:
    """What a version of main says of a branch; NotFoundError where there is none of the name."""
    entry = main.branches.get(check_branch(name))
    if entry is None:
        known = ", ".join(sorted(main.branches)) or "there are none"
        raise NotFoundError(f"there is no branch {name!r}", fix=f"branches are: {known}")
    return entry


def name_of_line(main: Version, line: int) -> str:
    """What the branch of a line is called; a line without name was deleted."""
    if line == 0:
        return MAIN
    return next(
        (name for name, entry in main.branches.items() if entry.line == line), f"line {line} (deleted)"
    )


def find_branch(main: VersionLog, name: str, *, exact: bool) -> VersionLog:
    """The versions of a branch.

    Parameters
    ----------
    exact
        Ask the newest version of main. Otherwise main's hint is taken at its word, one request less: a name that
        it gives a line keeps that line until the line ends, which whoever looks for its newest version sees.
    """
    known = main.hint()
    if exact or known is None or name not in known.branches:
        known = main.latest() if known is None else main.latest_from(known)
    return main.of_line(listed(known, name).line)


def first_of_branch(
    store: Store, main: Version, parent: Version, name: str, around: Surroundings
) -> tuple[Version, BranchEntry]:
    """The first version of a new branch, under a line number taken for it, and how main is to list it."""
    told = {"branch": name, "table_id": main.table_id, "writer_id": around.writer_id}
    line = claim_line(store, line_of(main.next_row_id), json.dumps(told, sort_keys=True).encode())
    origin = BranchOrigin(name=name, line=line, parent_line=parent.line, parent_version=parent.version)
    first = replace(
        parent,
        version=1,
        parent=None,
        commit_id=str(around.new_id()),
        committed_at=max(around.microseconds(), parent.committed_at + 1),
        writer_id=around.writer_id,
        operations=(),
        summary={
            "branch": name,
            "from_branch": name_of_line(main, parent.line),
            "from_version": parent.version,
        },
        next_row_id=line * LINE_IDS,
        next_fragment_id=line * LINE_IDS,
        required_features=(parent.required_features - {"expired-versions"}) | {BRANCH_FEATURE},
        sequences={},
        refs={},
        horizon=0,
        origin=origin,
        branches={},
        merges={},
        history=(),
    )
    entry = BranchEntry(line=line, parent_line=parent.line, parent_version=parent.version)
    return first, entry


def _about(name: str) -> OperationRecord:
    """What is stored of a commit about a branch."""
    return OperationRecord(kind="set_ref", claims=frozenset({f"branch:{name}"}))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListBranch:
    """Let main list a branch whose first version is written already."""

    name: str
    entry: BranchEntry
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """No claim: whether it fits the version at hand is asked when applied."""
        return OperationRecord(kind="set_ref")

    def apply(self, draft: Draft) -> OperationRecord:
        """List it, if the version it was made from is kept by the version at hand."""
        if self.name in draft.version.branches:
            raise AlreadyExistsError(
                f"there is a branch {self.name!r} already", fix="open it, or choose another name"
            )
        require_forkable(draft.version, self.entry.parent_line, self.entry.parent_version)
        draft.set_branch(self.name, self.entry)
        return _about(self.name)

    def replan(self, latest: Snapshot) -> Self:
        """Whether the version is still kept is asked when applied."""
        return self


def require_forkable(main: Version, line: int, number: int) -> None:
    """Raise where main's version does not promise that a version of a line stays (spec/branches.md, BRA-5)."""
    if line == 0:
        require_kept(main, number)
        return
    entry = next((one for one in main.branches.values() if one.line == line), None)
    if entry is None:
        raise NotFoundError("the branch it would be made from was deleted", fix="make it from another one")
    if number < entry.horizon:
        raise ExpiredError(
            f"version {number} of branch {name_of_line(main, line)!r} has expired",
            fix=f"the oldest version kept is {entry.horizon}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlistBranch:
    """Take a branch whose line has ended off main's list."""

    name: str
    line: int
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """No claim: whether it fits the version at hand is asked when applied."""
        return OperationRecord(kind="set_ref")

    def apply(self, draft: Draft) -> OperationRecord:
        """Remove the entry; NotFoundError where somebody else did."""
        if listed(draft.version, self.name).line != self.line:
            raise NotFoundError(f"the branch {self.name!r} was deleted, and another made, meanwhile")
        draft.set_branch(self.name, None)
        return _about(self.name)

    def replan(self, latest: Snapshot) -> Self:
        """Nothing is computed from the base."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeEntry:
    """Change what main says of a branch: its horizon, the versions it needs.

    Attributes
    ----------
    needs
        A version, as line and number, that main must promise to keep at that moment; None for none.
    """

    name: str
    line: int
    edit: Callable[[BranchEntry], BranchEntry]
    needs: tuple[int, int] | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """No claim: the entry is edited as it is on the version at hand."""
        return OperationRecord(kind="set_ref")

    def apply(self, draft: Draft) -> OperationRecord:
        """Edit the entry; NotFoundError where the branch was deleted."""
        entry = listed(draft.version, self.name)
        if entry.line != self.line:
            raise NotFoundError(f"the branch {self.name!r} was deleted meanwhile")
        if self.needs is not None:
            require_forkable(draft.version, *self.needs)
        draft.set_branch(self.name, self.edit(entry))
        return _about(self.name)

    def replan(self, latest: Snapshot) -> Self:
        """Nothing is computed from the base."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLine:
    """The last commit of a branch: no other can follow it."""

    name: str
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """No claim: whether it fits the version at hand is asked when applied."""
        return OperationRecord(kind="set_ref")

    def apply(self, draft: Draft) -> OperationRecord:
        """End the line."""
        draft.end_line()
        return _about(self.name)

    def replan(self, latest: Snapshot) -> Self:
        """Nothing is computed from the base."""
        return self
