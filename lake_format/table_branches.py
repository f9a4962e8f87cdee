"""The branches side of a table: make, list and remove branches, bring main forward to one (spec/branches.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from lake_format.branches import (
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
    NotFoundError,
    UnsupportedError,
)
from lake_format.fast_forward import FastForward, require_nothing_new
from lake_format.lines import BranchEntry
from lake_format.log import VersionLog
from lake_format.model import Version
from lake_format.table_versions import TableVersions
from lake_format.transaction import commit

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

    # --- inside -------------------------------------------------------------------------------------------

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
