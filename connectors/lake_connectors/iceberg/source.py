"""An Iceberg table as its metadata tell it: schema, name mapping, partition specs, the files of a snapshot.

pyiceberg reads the JSON and Avro. What it finds wrong becomes an error that names the object.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from pyiceberg.exceptions import ValidationError
from pyiceberg.manifest import DataFileContent, FileFormat, ManifestFile, read_manifest_list
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.name_mapping import NameMapping
from pyiceberg.table.snapshots import Snapshot

from lake_connectors.iceberg.entries import Entry, entries_of
from lake_connectors.iceberg.locations import Locations
from lake_format.errors import CorruptionError, InvalidInputError, LakeError, UnsupportedError

__all__ = ["Source", "read_metadata", "reading"]

_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValidationError,
    ValueError,
    zlib.error,
)
"""What pyiceberg raises for bytes that are not what they should be: it does not check them first."""


def read_metadata(locations: Locations, location: str) -> TableMetadata:
    """The metadata in a ``metadata.json`` file; CorruptionError where it holds none."""
    with reading(location):
        return FromInputFile.table_metadata(locations.io.new_input(location))


@dataclass(frozen=True, slots=True)
class Source:
    """One snapshot of an Iceberg table."""

    metadata: TableMetadata
    locations: Locations
    snapshot: Snapshot | None
    schema: Schema

    @classmethod
    def of(cls, metadata: TableMetadata, locations: Locations, snapshot_id: int | None) -> Source:
        """The snapshot with this id, or the current one.

        Raises
        ------
        InvalidInputError
            There is no such snapshot.
        """
        if snapshot_id is None:
            return cls(metadata, locations, metadata.current_snapshot(), metadata.schema())
        snapshot = metadata.snapshot_by_id(snapshot_id)
        if snapshot is None:
            known = ", ".join(str(one.snapshot_id) for one in metadata.snapshots[-5:]) or "none"
            raise InvalidInputError(
                f"the Iceberg table has no snapshot {snapshot_id}", fix=f"the newest are: {known}"
            )
        schemas = {one.schema_id: one for one in metadata.schemas}
        schema_id = metadata.current_schema_id if snapshot.schema_id is None else snapshot.schema_id
        if schema_id not in schemas:
            raise CorruptionError(
                f"snapshot {snapshot_id} of the Iceberg table has the unknown schema {schema_id}"
            )
        return cls(metadata, locations, snapshot, schemas[schema_id])

    @property
    def name_mapping(self) -> NameMapping | None:
        """Ids for the columns of files that have none in them."""
        with reading("the Iceberg table's name mapping"):
            return self.metadata.name_mapping()

    @property
    def field_ids(self) -> frozenset[int]:
        """The ids of all fields the table ever had, nested ones included."""
        return frozenset(one for schema in self.metadata.schemas for one in schema.field_ids)

    def spec(self, spec_id: int) -> PartitionSpec:
        """The partition spec of this id."""
        found = self.metadata.specs().get(spec_id)
        if found is None:
            raise CorruptionError(f"a file of the Iceberg table has the unknown partition spec {spec_id}")
        return found

    def files(self) -> tuple[list[Entry], list[Entry]]:
        """The snapshot's data files, and its deletes by position.

        Raises
        ------
        UnsupportedError
            The snapshot has equality deletes, or files of a format that cannot be imported.
        """
        data: list[Entry] = []
        deletes: list[Entry] = []
        for manifest in self._manifests():
            self._check_length(manifest)
            with reading(manifest.manifest_path):
                found = entries_of(self.locations.io, manifest)
            for one in found:
                _check_supported(one)
                (data if one.file.content is DataFileContent.DATA else deletes).append(one)
        return data, deletes

    def _manifests(self) -> list[ManifestFile]:
        if self.snapshot is None:
            return []
        location = self.snapshot.manifest_list
        with reading(location):
            found = list(read_manifest_list(self.locations.io.new_input(location)))
            summary = self.snapshot.summary
            total = None if summary is None else summary["total-data-files"]
        if not found and total not in (None, "0"):
            raise CorruptionError(f"{location} lists no manifest, but the snapshot has {total} data files")
        return found

    def _check_length(self, manifest: ManifestFile) -> None:
        """Refuse a manifest that is shorter or longer than the snapshot says: whole blocks of it may be missing."""
        size = len(self.locations.io.new_input(manifest.manifest_path))
        if size != manifest.manifest_length:
            raise CorruptionError(
                f"{manifest.manifest_path} is {size} bytes long, not {manifest.manifest_length} as recorded"
            )


def _check_supported(entry: Entry) -> None:
    file = entry.file
    if file.record_count < 0:
        raise CorruptionError(f"data file {file.file_path} has {file.record_count} rows as recorded")
    if file.content is DataFileContent.EQUALITY_DELETES:
        raise UnsupportedError(
            f"the Iceberg table has equality deletes ({file.file_path}), which cannot be imported",
            fix="rewrite its data files first, for example with rewrite_data_files",
        )
    if file.file_format is not FileFormat.PARQUET and not entry.is_vector:
        raise UnsupportedError(
            f"the Iceberg table has the {file.file_format} file {file.file_path}; only Parquet can be imported",
            fix="rewrite its data files as Parquet first",
        )


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Report what pyiceberg finds wrong as a CorruptionError that names the object."""
    try:
        yield
    except LakeError:
        raise
    except _MALFORMED as error:
        line = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CorruptionError(f"{what} cannot be read as Iceberg metadata: {line[:200]}") from error
