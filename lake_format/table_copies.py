"""The side of a table that copies it to other places (spec/copies.md)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping
from typing import Self
from uuid import UUID

from lake_format.branches import require_forkable
from lake_format.copies.backup import BackupReport, back_up
from lake_format.copies.cloning import Cloning
from lake_format.engine import Progress
from lake_format.errors import NotFoundError
from lake_format.pins import Pin, list_pins
from lake_format.store import open_store
from lake_format.store.base import Store
from lake_format.store.table_store import TableStore
from lake_format.table_versions import TableVersions

__all__ = ["TableCopies"]


class TableCopies(TableVersions):
    """Backups and clones."""

    def backup(
        self,
        uri: str | os.PathLike[str],
        version: int | str | None = None,
        *,
        storage_options: Mapping[str, str] | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> BackupReport:
        """Copy a version, and those its tags name, to another store; ``lake.restore_backup()`` brings it back.

        Only objects that the backup does not have are copied, each is read back and compared, and a version is in
        the backup with everything it needs or not at all. An interrupted backup is simply called again. Files
        outside the table's root are copied as well, so that the backup stands alone.

        Parameters
        ----------
        uri
            A place for backups of this table and nothing else.
        version
            A number, or the name of a tag; None is the version this table reads.
        storage_options, store
            How the place is reached, as in :func:`lake_format.open`.
        progress
            Called with ``("backup", bytes done, bytes in all)``.

        Returns
        -------
        BackupReport
            Objects and bytes copied, and those that were there.

        Raises
        ------
        InvalidInputError
            The place holds a table, or the backup of another one.
        CorruptionError
            An object is not what the version says of it; nothing became part of the backup.
        ExternalNotAllowedError
            The version refers to files in a place that this table may not read.
        """
        chosen = self._snapshot.version if version is None else self._older(version)
        target = store or open_store(os.fspath(uri), storage_options)
        return back_up(self._store, self._log, chosen, target, progress)

    def clone(
        self,
        uri: str | os.PathLike[str],
        version: int | str | None = None,
        *,
        storage_options: Mapping[str, str] | None = None,
        store: Store | None = None,
    ) -> Self:
        """Make a table of its own out of a version of this one, without copying a byte of its rows.

        The clone has the rows, row ids, indexes, key and properties of the version, a history of its own, and no
        tags or branches. Its files stay where they are, so whoever opens it says that it may read them there:
        ``lake.open(uri, allow_external=source)``. What is written to either table is seen in the other never.
        Compaction and rewrites of the clone copy what they touch.

        A pin in this table keeps the version's files whatever expires here; :meth:`release_pin` removes it. Where
        this table cannot be written to, the clone is unpinned: its files live only as long as this table needs
        them. A warning says so, and ``clone.inspect.sources()``.

        Parameters
        ----------
        uri
            An empty place.
        version
            A number, or the name of a tag; None is the version this table reads.
        storage_options, store
            How the place is reached, as in :func:`lake_format.open`.

        Returns
        -------
        Table
            The clone, which may read this table's files already.

        Raises
        ------
        AlreadyExistsError
            There is a table at ``uri``.
        NotFoundError
            There is no such version or tag, or the version has expired.
        ExternalNotAllowedError
            This table is a clone itself and was opened without leave to reach the tables it was cloned from.
        """
        self._require_alone("clone")
        parent = self._snapshot.version if version is None else self._older(version)
        target = store or open_store(os.fspath(uri), storage_options)
        first = Cloning(self._store, parent, self._newest_of_main, target, self._around).run()
        if not all(one.pinned for one in first.cloned_from):
            warnings.warn(
                f"{target.uri} is not pinned wherever it shares files: it lasts only as long as they are kept there",
                stacklevel=2,
            )
        consent = self._store.consent.also(self._store.uri, self._store.home)
        return type(self)(
            TableStore(target, consent), first, engine=self._given_engine, surroundings=self._around
        )

    def pin(self, holder: UUID, where: str) -> bool:
        """Keep the files of the version this table reads, whatever expires, for somebody who reads them from outside.

        Parameters
        ----------
        holder
            Who that is, for :meth:`release_pin`.
        where
            What ``inspect.pins()`` tells people about it.

        Returns
        -------
        bool
            Whether they are kept; they are not where nothing can be written to this table.

        Raises
        ------
        NotFoundError
            The version has expired already.
        """
        self._require_alone("pin")
        version = self._snapshot.version
        told = {
            "clone": where,
            "created_at": self._around.microseconds(),
            "writer_id": self._around.writer_id,
        }
        made = Pin(line=version.line, version=version.version, table_id=str(holder)).write(self._store, told)
        require_forkable(self._newest_of_main(), version.line, version.version)
        return made

    def release_pin(self, table_id: str, *, versions: Collection[int] | None = None) -> None:
        """Let go of what a clone of this table shares: from now on it expires and is collected as everything else.

        Meant for a clone that was dropped, or that compaction made independent. One that still refers to files
        here breaks when they are collected.

        Parameters
        ----------
        table_id
            The clone's, as ``inspect.pins()`` lists it.
        versions
            Only its pins of these versions; None are all.

        Raises
        ------
        NotFoundError
            No clone of that id has a pin here.
        """
        pins = list_pins(self._store)
        found = [
            pin for pin in pins if pin.table_id == table_id and (versions is None or pin.version in versions)
        ]
        if not found:
            known = ", ".join(pin.table_id for pin in pins) or "there are none"
            raise NotFoundError(f"no clone {table_id!r} has a pin in {self.uri}", fix=f"pins are of: {known}")
        for pin in found:
            self._store.delete(pin.path)
