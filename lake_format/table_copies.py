"""The side of a table that copies it to other places (spec/copies.md)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lake_format.copies.backup import BackupReport, back_up
from lake_format.engine import Progress
from lake_format.store import open_store
from lake_format.store.base import Store
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
