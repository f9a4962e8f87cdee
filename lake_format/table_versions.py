"""The versions side of a table: look at older ones, name them, make one current again (spec/versions.md)."""

from __future__ import annotations

from typing import Self

from lake_format.difference import VersionDifference, difference
from lake_format.errors import InvalidInputError
from lake_format.history import MoveTag, RestoreVersion, check_tag, tagged
from lake_format.model import Version
from lake_format.table_core import TableCore

__all__ = ["TableVersions"]


class TableVersions(TableCore):
    """Time travel, tags and restore."""

    def checkout(self, version: int | str) -> Self:
        """The table as it was: a table of its own that stays at that version and cannot be written to.

        Parameters
        ----------
        version
            A version's number, or the name of a tag.

        Raises
        ------
        NotFoundError
            There is no such version or tag, or the version has expired.
        """
        return type(self)(
            self._store, self._older(version), engine=self._engine, surroundings=self._around, pinned=True
        )

    def tag(self, name: str, version: int | str | None = None, *, move: bool = False) -> Self:
        """Name a version, which stays readable under that name whatever expires.

        Parameters
        ----------
        name
            1 to 128 letters, digits and ``_ . - /``.
        version
            A number, or another tag; None is the version this table reads.
        move
            Let the tag name this version although it names another one now.

        Raises
        ------
        AlreadyExistsError
            The tag names another version, and ``move`` is not set.
        NotFoundError
            There is no such version, or it has expired.
        """
        self._require_writable()
        number = self.version if version is None else self._number(version)
        self._commit(MoveTag(name=check_tag(name), number=number, move=move, summary={"tag": name}))
        return self

    def tags(self) -> dict[str, int]:
        """The tags this version of the table knows, by name, each with the number of the version it names."""
        return dict(sorted(self._snapshot.version.refs.items()))

    def delete_tag(self, name: str) -> Self:
        """Remove a tag; NotFoundError where there is none. The version it names may expire from now on."""
        self._require_writable()
        self._commit(MoveTag(name=check_tag(name), number=None, summary={"tag": name}))
        return self

    def restore(self, version: int | str) -> Self:
        """Make the columns, rows and indexes of an older version current; history and properties stay.

        Row ids are not given out again: rows that come back have the ids they had, rows added later get new ones.

        Parameters
        ----------
        version
            A number, or the name of a tag.

        Raises
        ------
        ConflictError
            Somebody changed the table since the version this object reads; restoring would undo it unseen.
        NotFoundError
            There is no such version or tag, or the version has expired.
        """
        self._require_writable()
        old = self._older(version)
        self._commit(RestoreVersion(old=old, summary={"restored": old.version, "rows": old.row_count}))
        return self

    def diff(self, from_version: int | str, to_version: int | str | None = None) -> VersionDifference:
        """What became of the rows between two versions, by row id.

        Moved rows (compaction, updates) are the same rows. Columns that only one of the versions has do not
        count; a column keeps its identity when it is renamed.

        Parameters
        ----------
        from_version, to_version
            Numbers or tags; by default to the version this table reads.

        Returns
        -------
        VersionDifference
            Row ids added, removed and changed.
        """
        to = self if to_version is None else self.checkout(to_version)
        return difference(self.checkout(from_version).snapshot, to.snapshot, self._log, self._engine.take)

    def _older(self, version: int | str) -> Version:
        return self._log.read(self._number(version))

    def _number(self, version: int | str) -> int:
        if isinstance(version, str):
            return tagged(self._log.latest_from(self._snapshot.version), version)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InvalidInputError(f"version must be a positive whole number or a tag, not {version!r}")
        return version
