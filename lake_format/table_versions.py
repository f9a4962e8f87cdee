"""The versions side of a table: look at older ones, name them, make one current again (spec/versions.md)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Self

import pyarrow as pa

from lake_format.change_feed import change_feed
from lake_format.difference import VersionDifference, difference
from lake_format.errors import InvalidInputError
from lake_format.history import MoveTag, RestoreVersion, check_tag, is_tag, moment_of, tagged
from lake_format.model import Version
from lake_format.schema import select_columns
from lake_format.snapshot import Snapshot
from lake_format.table_core import TableCore
from lake_format.timeline import version_at

__all__ = ["TableVersions"]


class TableVersions(TableCore):
    """Time travel, tags, restore, and what changed between versions."""

    def checkout(self, version: int | str | None = None, *, as_of: datetime | str | None = None) -> Self:
        """The table as it was: a table of its own that stays at that version and cannot be written to.

        Parameters
        ----------
        version
            A version's number, or the name of a tag.
        as_of
            Instead: the version that was current at this moment, a ``datetime`` with a time zone or ISO 8601 text
            with one.

        Raises
        ------
        NotFoundError
            There is no such version or tag, or the version has expired.
        """
        if (version is None) == (as_of is None):
            raise InvalidInputError("give a version, a tag or as_of, and one of them only")
        if as_of is not None:
            newest = self._log.latest_from(self._snapshot.version)
            older = version_at(self._log, newest, moment_of(as_of))
        else:
            assert version is not None
            older = self._older(version)
        return type(self)(self._store, older, engine=self._engine, surroundings=self._around, pinned=True)

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
        self._require_alone("tag")
        number = self.version if version is None else self._number(version)
        self._commit(MoveTag(name=check_tag(name), number=number, move=move, summary={"tag": name}))
        return self

    def tags(self) -> dict[str, int]:
        """The tags this version of the table knows, by name, each with the number of the version it names."""
        return dict(sorted(self._snapshot.version.refs.items()))

    def delete_tag(self, name: str) -> Self:
        """Remove a tag; NotFoundError where there is none. The version it names may expire from now on."""
        self._require_writable()
        self._require_alone("delete_tag")
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
        self._require_alone("restore")
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

    def changes(
        self,
        since: int | str | datetime,
        until: int | str | datetime | None = None,
        *,
        columns: Iterable[str] | None = None,
    ) -> pa.RecordBatchReader:
        """The change data feed: which rows were inserted, updated and deleted since a version, as a stream.

        Commits come in their order. Moves of rows (compaction, clustering) are no changes. All values are in the
        schema of the last version: dropped columns are gone, later ones NULL before they were filled. A new column
        without values changes no row; one that brings values, or a declared default, is an update of every row that
        got one, as adding a column and then updating it would be: whoever replays the feed has them too.

        Parameters
        ----------
        since, until
            Versions: a number, the name of a tag, or a moment (a ``datetime`` or ISO 8601 text with a time
            zone). Changes of ``since`` itself do not count, those of ``until`` do; by default that is the
            version this table reads.
        columns
            Only these; None is all. Changes of other columns are told all the same.

        Returns
        -------
        pyarrow.RecordBatchReader
            ``_change`` (``insert``, ``delete``, or ``update_preimage`` followed by its ``update_postimage``),
            ``_row_id``, ``_version``, ``_committed_at``, then the columns. A row is told at most once a version.

        Raises
        ------
        ExpiredError
            A version in between has expired, so that what it changed cannot be told.
        InvalidInputError
            ``until`` is earlier than ``since``, or a column that is unknown or named like one of the feed's own.
        """
        newest = self._log.latest_from(self._snapshot.version)
        last = self.snapshot if until is None else self._snapshot_at(newest, until)
        names = select_columns(last.schema, columns)
        return change_feed(self._log, self._snapshot_at(newest, since), last, names, newest, self._engine)

    def _snapshot_at(self, newest: Version, when: int | str | datetime) -> Snapshot:
        if isinstance(when, datetime) or (isinstance(when, str) and not is_tag(when)):
            version = version_at(self._log, newest, moment_of(when))
        else:
            version = self._log.read(tagged(newest, when) if isinstance(when, str) else self._number(when))
        return Snapshot(self._store, version, self._manifests)

    def _older(self, version: int | str) -> Version:
        return self._log.read(self._number(version))

    def _number(self, version: int | str) -> int:
        if isinstance(version, str):
            return tagged(self._log.latest_from(self._snapshot.version), version)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InvalidInputError(f"version must be a positive whole number or a tag, not {version!r}")
        return version
