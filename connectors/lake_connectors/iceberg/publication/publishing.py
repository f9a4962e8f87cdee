"""Publishes versions of a table as snapshots of an Iceberg table, in the order that keeps both whole.

Everything a snapshot names is there before the metadata file that names it is created, which is the one act that
publishes; and a pin keeps the version's files in the table before that (spec/copies.md, PUB clauses).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid5

from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadataV2
from pyiceberg.table.snapshots import Snapshot as IcebergSnapshot

from lake_connectors.iceberg.publication.contents import Contents
from lake_connectors.iceberg.publication.folder import Folder, location_of, metadata_path
from lake_connectors.iceberg.publication.manifests import live_entries, manifests_of, write_list
from lake_connectors.iceberg.publication.metadata import (
    Described,
    published_version,
    read_metadata,
    snapshot_id_of,
    with_schema,
)
from lake_connectors.iceberg.publication.snapshots import Step
from lake_connectors.iceberg.publication.types import iceberg_schema
from lake_format.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    NotWrittenError,
    UnsupportedError,
)
from lake_format.model import Version
from lake_format.pins import list_pins
from lake_format.store import open_store
from lake_format.store.table_store import TableStore
from lake_format.table import Table

__all__ = ["Publication", "publish"]

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A version as Iceberg's readers find it.

    Attributes
    ----------
    version
        The table's version.
    snapshot_id
        The Iceberg snapshot that it is.
    metadata_location
        The metadata file, for ``StaticTable.from_metadata`` or ``catalog.register_table``.
    location
        The folder to give to readers that look for the newest metadata themselves.
    """

    version: int
    snapshot_id: int
    metadata_location: str
    location: str


def publish(
    table: Table,
    location: str | os.PathLike[str] | None = None,
    *,
    keep: int = 10,
    storage_options: Mapping[str, str] | None = None,
) -> Publication:
    """Make the version that a table reads a snapshot of an Iceberg table (format version 2) over the same data files.

    Nothing of the table is copied or changed: what is new lies in ``metadata/`` below the location. Publishing a
    later version adds a snapshot and writes in proportion to what changed; publishing the same version again does
    nothing. The table stays the one to write to: what others write to the Iceberg table is no part of it, and the
    next publication refuses to go on from it.

    Pins keep the files of the last ``keep`` published versions in the table, whatever expires and is collected there.

    Parameters
    ----------
    table
        A table whose fragments are in the open layout: ``create(…, layout="open")``, or ``compact()`` after that
        property was set or columns were filled.
    location
        Where the publication is to be; by default the table's own root.
    keep
        So many of the newest snapshots stay. Metadata of older ones are removed.
    storage_options
        How ``location`` is reached, where that is another place than the table's.

    Raises
    ------
    UnsupportedError
        A fragment or a column that Iceberg's readers would not read as it is; it is named. Or a branch, or a place
        that cannot be named in Iceberg's metadata.
    InvalidInputError
        A later version is published there already.
    AlreadyExistsError
        The place has the metadata of another table.
    ConflictError
        Others published to the same place all the time.
    """
    if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
        raise InvalidInputError(f"keep must be a positive whole number, not {keep!r}")
    if table.snapshot.version.line:
        raise UnsupportedError(
            f"the branch {table.branch!r} cannot be published", fix="merge it, and publish main"
        )
    home = TableStore.around(table.snapshot.store).home
    target = table.uri if location is None else os.fspath(location)
    place = location_of(target)
    store = home if place == location_of(table.uri) else open_store(target, storage_options)
    work = _Publishing(table, Folder(store, place), location_of(table.uri), keep)
    for _ in range(_ATTEMPTS):
        done = work.attempt()
        if done is not None:
            return done
    raise ConflictError(f"others publish to {place} all the time", fix="try again")


class _Publishing:
    """One version on its way into a folder."""

    def __init__(self, table: Table, folder: Folder, root: str, keep: int) -> None:
        self._table = table
        self._folder = folder
        self._root = root
        self._keep = keep
        self._version: Version = table.snapshot.version
        self._holder = uuid5(UUID(self._version.table_id), f"iceberg {folder.location}")

    def attempt(self) -> Publication | None:
        """Publish on top of what is there; None where somebody else did meanwhile."""
        folder, version = self._folder, self._version
        number = folder.newest()
        before = self._published(number)
        last = None if before is None else before.current_snapshot()
        if last is not None:
            known = published_version(last)
            if known == (version.version, version.commit_id):
                folder.hint(number)
                return self._publication(number)
            if known[0] >= version.version:
                raise InvalidInputError(
                    f"version {known[0]} is published in {folder.location} already, and this is version "
                    f"{version.version}",
                    fix="refresh() the table first, or publish to another location",
                )
        now = Contents.of(self._table.snapshot, self._root)
        schema = iceberg_schema(version.schema)
        self._keep_files()
        try:
            metadata = self._described(now, schema, number, before)
        except LakeError:
            folder.discard()
            raise
        if not self._claimed(number + 1, metadata.model_dump_json().encode()):
            folder.discard()
            return None
        folder.made = []
        folder.hint(number + 1)
        with suppress(LakeError):  # it is published; what stays behind is found again, or harms nobody
            self._let_go(before, metadata)
        return self._publication(number + 1)

    def _claimed(self, number: int, data: bytes) -> bool:
        """Create the metadata file; after a failure of unknown outcome what it names stays."""
        try:
            self._folder.create_metadata(number, data)
        except AlreadyExistsError:  # somebody else, or ourselves if an answer was lost on the way
            return self._folder.metadata(number) == data
        except NotWrittenError:
            self._folder.discard()
            raise
        return True

    def _published(self, number: int) -> TableMetadataV2 | None:
        data = self._folder.metadata(number) if number else None
        where = f"{self._folder.location}/{metadata_path(number)}"
        return None if data is None else read_metadata(data, where, self._version.table_id)

    def _publication(self, number: int) -> Publication:
        return Publication(
            version=self._version.version,
            snapshot_id=snapshot_id_of(self._version),
            metadata_location=f"{self._folder.location}/{metadata_path(number)}",
            location=self._folder.location,
        )

    def _described(
        self, now: Contents, schema: Schema, number: int, before: TableMetadataV2 | None
    ) -> TableMetadataV2:
        """Write all that the new metadata name, and make them."""
        folder, version = self._folder, self._version
        schemas, schema = with_schema([] if before is None else before.schemas, schema)
        last = None if before is None else before.current_snapshot()
        step = Step(
            folder=folder,
            schema=schema,
            snapshot_id=snapshot_id_of(version),
            now=now,
            before=None if last is None else self._contents_of(last),
            manifests=[] if last is None else manifests_of(folder, last.manifest_list),
        )
        manifests = step.run()
        sequence = 1 if before is None else before.last_sequence_number + 1
        parent = None if last is None else last.snapshot_id
        listing = write_list(folder, step.snapshot_id, parent, sequence, manifests)
        return Described(
            version=version,
            schemas=schemas,
            schema=schema,
            manifest_list=listing,
            change=step.change,
            files=len(now.fragments),
            rows_deleted=sum(one.deleted_count for one in now.fragments.values()),
            location=folder.location,
            keep=self._keep,
            before=before,
            before_location=f"{folder.location}/{metadata_path(number)}",
        ).metadata()

    def _contents_of(self, published: IcebergSnapshot) -> Contents | None:
        """What was published before; None where that version is not there any more."""
        number, commit = published_version(published)
        try:
            snapshot = self._table.checkout(number).snapshot
        except NotFoundError:
            return None
        return Contents.of(snapshot, self._root) if snapshot.version.commit_id == commit else None

    # --- what keeps the files there -------------------------------------------------------------------------

    def _keep_files(self) -> None:
        if not self._table.pin(self._holder, f"{self._folder.location}/metadata"):
            warnings.warn(
                f"what is published in {self._folder.location} is not pinned in {self._table.uri}, which cannot be "
                "written to: it lasts only as long as that table keeps the version",
                stacklevel=4,
            )

    def _let_go(self, before: TableMetadataV2 | None, now: TableMetadataV2) -> None:
        """Release the pins of versions that are published no more, and remove what only their snapshots named."""
        kept = {published_version(one)[0] for one in now.snapshots}
        pins = [pin for pin in list_pins(self._table.snapshot.store) if pin.table_id == str(self._holder)]
        old = {pin.version for pin in pins if pin.version < self._version.version} - kept
        if old:
            self._table.release_pin(str(self._holder), versions=old)
        if before is not None:
            self._folder.remove(list(_named_no_more(self._folder, before, now)))


def _named_no_more(folder: Folder, before: TableMetadataV2, now: TableMetadataV2) -> Iterator[str]:
    """Locations that the metadata before named and those now do not."""
    ids = {one.snapshot_id for one in now.snapshots}
    gone = [one for one in before.snapshots if one.snapshot_id not in ids]
    files = {one.metadata_file for one in now.metadata_log}
    yield from (one.metadata_file for one in before.metadata_log if one.metadata_file not in files)
    if not gone:
        return
    stay = _manifests(folder, now.snapshots)
    left = {path: one for path, one in _manifests(folder, gone).items() if path not in stay}
    needed = _delete_files(folder, stay.values()) if left else set()
    yield from sorted(_delete_files(folder, left.values()) - needed)
    yield from left
    yield from (one.manifest_list for one in gone)


def _manifests(folder: Folder, snapshots: Iterable[IcebergSnapshot]) -> dict[str, ManifestFile]:
    return {
        manifest.manifest_path: manifest
        for snapshot in snapshots
        for manifest in manifests_of(folder, snapshot.manifest_list)
    }


def _delete_files(folder: Folder, manifests: Iterable[ManifestFile]) -> set[str]:
    return {
        entry.data_file.file_path
        for manifest in manifests
        if manifest.content == ManifestContent.DELETES
        for entry in live_entries(folder, manifest)
    }
