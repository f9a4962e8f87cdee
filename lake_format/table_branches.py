"""The branches side of a table: make, list, merge and remove branches, bring main forward (spec/branches.md)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from lake_format.branches import (
    ChangeEntry,
    EndLine,
    ListBranch,
    UnlistBranch,
    check_branch,
    first_of_branch,
    listed,
    name_of_line,
    require_forkable,
)
from lake_format.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    LakeError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.fast_forward import FastForward, require_nothing_new
from lake_format.lines import BranchEntry
from lake_format.log import VersionLog
from lake_format.merge_plan import MergePlan, plan_merge
from lake_format.merging import MergeBranch
from lake_format.model import Version
from lake_format.table_versions import TableVersions
from lake_format.transaction import REFUSALS, commit

__all__ = ["TableBranches"]


class TableBranches(TableVersions):
    """Lines of versions that go their own way and come back together."""

    def branches(self) -> list[dict[str, Any]]:
        """The branches there are now, by name; main is not among them.

        Returns
        -------
        list of dict
            Each with ``name``, and ``from_branch`` and ``from_version``, the version it was made from.
        """
        newest = self._newest_of_main()
        return [
            {
                "name": name,
                "from_branch": name_of_line(newest, entry.parent_line),
                "from_version": entry.parent_version,
            }
            for name, entry in sorted(newest.branches.items())
        ]

    def create_branch(self, name: str, version: int | str | None = None) -> Self:
        """Make a branch: it has all rows of a version of this table, and goes its own way from there.

        Nothing is copied. Rows keep their row ids on both sides; what is written on a branch is seen nowhere else
        until it is merged.

        Parameters
        ----------
        name
            1 to 128 letters, digits and ``_ . - /``; not ``main``.
        version
            A version's number, or a tag; None is the version this table reads.

        Returns
        -------
        Table
            The table on the new branch, as ``lake.open(uri, branch=name)`` opens it.

        Raises
        ------
        AlreadyExistsError
            There is a branch of this name.
        NotFoundError
            There is no such version or tag, or the version has expired.
        """
        self._require_alone("create_branch")
        check_branch(name)
        parent = self._snapshot.version if version is None else self._older(version)
        main = self._newest_of_main()
        if name in main.branches:
            self._finish_deletion(name, main.branches[name])
            main = self._newest_of_main()
        require_forkable(main, parent.line, parent.version)
        first, entry = first_of_branch(self._store, main, parent, name, self._around)
        log = self._log.of_line(entry.line)
        if not log.claim(first):
            raise CorruptionError(
                f"line {entry.line}, taken for the branch {name!r} a moment ago, has versions"
            )
        log.publish_hint(first)
        self._commit_on_main(ListBranch(name=name, entry=entry, summary={"branch": name}))
        return type(self)(self._store, first, engine=self._given_engine, surroundings=self._around)

    def delete_branch(self, name: str) -> Self:
        """Remove a branch; what it alone has can be collected from now on, and whoever writes to it is refused.

        Branches made from it stay whole, as does everything that was merged.

        Raises
        ------
        NotFoundError
            There is no such branch.
        """
        self._require_alone("delete_branch")
        self._end(name, listed(self._newest_of_main(), name))
        return self

    def fast_forward(self, name: str) -> Self:
        """Bring main to where a branch is: its columns, rows and indexes become main's, all by reference.

        Row ids stay. The branch stays too and can be written on and brought in again. Main's properties, tags and
        history are its own; upkeep that was done on main since is passed over.

        Parameters
        ----------
        name
            A branch that was made from main.

        Raises
        ------
        ConflictError
            Main has gone on since the branch was made; what it did is named. Nothing changed.
        NotFoundError
            There is no such branch, or it was deleted meanwhile.
        UnsupportedError
            This table, or what the branch was made from, is not main.
        """
        self._require_writable()
        self._require_alone("fast_forward")
        newest = self._newest_of_main()
        entry = listed(newest, name)
        if self._log.line or entry.parent_line:
            above = name_of_line(newest, entry.parent_line)
            raise UnsupportedError(
                f"only main is brought forward, and only to a branch made from it; {name!r} was made from {above}",
                fix="call it on the table opened without branch=",
            )
        branch = self._log.of_line(entry.line).latest()
        if branch.is_end:
            raise NotFoundError(f"the branch {name!r} was deleted")
        if branch.version > newest.merges.get(entry.line, 1):
            require_nothing_new(self._log, newest, branch)
            summary = {"branch": name, "branch_version": branch.version, "rows": branch.row_count}
            self._commit(FastForward(branch=branch, summary=summary), base=newest)
        else:
            self._move_to(newest)
        return self

    def merge_branch(self, name: str) -> Self:
        """Bring what was done on a branch into the line it was made from: one commit, rows by reference.

        Rows keep their row ids. Everything since the branch was made, or since it was merged last, is taken: rows,
        columns and indexes. Upkeep, tags and properties of the branch stay there. The branch goes on; merging it
        again takes what is new.

        Parameters
        ----------
        name
            A branch that was made from this line: from main, or from the branch this table is opened on.

        Raises
        ------
        ConflictError
            What was done on the two lines does not go together, as if it were done at the same time by two
            writers; the operations, columns and rows are named. Nothing changed.
        NotFoundError
            There is no such branch, or it was deleted meanwhile.
        UnsupportedError
            The branch was made from another line.
        """
        self._require_writable()
        self._require_alone("merge_branch")
        main = self._newest_of_main()
        entry = listed(main, name)
        if entry.parent_line != self._log.line:
            raise UnsupportedError(
                f"{name!r} was made from {name_of_line(main, entry.parent_line)}, not from {self.branch}",
                fix="open the table where the branch was made from, and merge it there",
            )
        branch = self._log.of_line(entry.line)
        newest = branch.latest()
        if newest.is_end:
            raise NotFoundError(f"the branch {name!r} was deleted")
        into = main if self._log.line == 0 else self._log.latest_from(self._snapshot.version)
        while newest.version > into.merges.get(entry.line, 1):
            plan = plan_merge(name, branch, self._log, newest, into, self._manifests)
            if plan is None:
                break
            try:
                self._merge(plan, into)
                return self
            except ConflictError:
                before, into = into, self._log.latest_from(into)
                if into.merges.get(entry.line) == before.merges.get(entry.line):
                    raise
        self._move_to(into)
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _merge(self, plan: MergePlan, into: Version) -> None:
        """Land a merge; into a branch, main promises to keep what is merged until it is there (BRA-12)."""
        change = MergeBranch(self._engine, plan, self._around)
        pin = (plan.line, plan.newest.version.version)
        self._edit_entry(into, lambda entry: entry.with_pin(*pin), needs=pin)
        try:
            self._commit(change, base=into)
        except (*REFUSALS, NotFoundError):
            change.discard()
            self._release_pin(into, lambda entry: entry.without_pin(*pin, older=False))
            raise
        self._release_pin(into, lambda entry: entry.without_pin(*pin, older=True))

    def _release_pin(self, into: Version, edit: Callable[[BranchEntry], BranchEntry]) -> None:
        with suppress(LakeError):  # then files are kept longer than needed; the next merge lets go of them
            self._edit_entry(into, edit)

    def _edit_entry(
        self,
        branch: Version,
        edit: Callable[[BranchEntry], BranchEntry],
        needs: tuple[int, int] | None = None,
    ) -> None:
        """Change what main says of the branch that a version is of; nothing for main itself."""
        if (origin := branch.origin) is not None:
            self._commit_on_main(ChangeEntry(name=origin.name, line=origin.line, edit=edit, needs=needs))

    def _end(self, name: str, entry: BranchEntry) -> None:
        log = self._log.of_line(entry.line)
        _end_line(
            log, lambda newest: commit(log, self._manifests, newest, [EndLine(name=name)], self._around)
        )
        try:
            self._commit_on_main(UnlistBranch(name=name, line=entry.line, summary={"deleted_branch": name}))
        except NotFoundError:  # somebody else deletes it too, and was first
            return

    def _finish_deletion(self, name: str, entry: BranchEntry) -> None:
        """Take a branch off the list whose deletion was interrupted; AlreadyExistsError for one that lives."""
        if not self._log.of_line(entry.line).latest().is_end:
            raise AlreadyExistsError(
                f"there is a branch {name!r} already", fix="open it, or choose another name"
            )
        self._end(name, entry)


def _end_line(log: VersionLog, end: Callable[[Version], Version]) -> None:
    """End a line, if nobody else does at the same moment."""
    newest = log.latest()
    if newest.is_end:
        return
    try:
        end(newest)
    except ConflictError:
        if not log.latest_from(newest).is_end:
            raise
