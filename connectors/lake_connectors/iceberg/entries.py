"""A manifest's entries with all that says which deletes count for which file; pyiceberg leaves some of it out."""

from __future__ import annotations

from dataclasses import dataclass

from pyiceberg.avro.file import AvroFile
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DATA_FILE_TYPE,
    MANIFEST_ENTRY_SCHEMAS,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)

from lake_format.errors import CorruptionError

__all__ = ["Entry", "entries_of"]

_NEWEST = MANIFEST_ENTRY_SCHEMAS[3]
_FIELDS = {field.name: at for at, field in enumerate(DATA_FILE_TYPE[3].fields)}


@dataclass(frozen=True, slots=True)
class Entry:
    """A live file of a snapshot.

    Attributes
    ----------
    file
        What its manifest says of it.
    sequence
        Its data sequence number: deletes count for files whose number is not greater than theirs.
    spec_id
        The partition spec it was written with.
    target, offset, length
        The data file that a deletion vector is for, and where in its own file it lies; None for other files.
    """

    file: DataFile
    sequence: int
    spec_id: int
    target: str | None = None
    offset: int | None = None
    length: int | None = None

    @property
    def is_vector(self) -> bool:
        """Whether it is a deletion vector."""
        return self.file.content is DataFileContent.POSITION_DELETES and (
            self.file.file_format is FileFormat.PUFFIN
        )


def entries_of(io: FileIO, manifest: ManifestFile) -> list[Entry]:
    """The live entries of a manifest; raises whatever pyiceberg does where it is damaged."""
    with AvroFile[ManifestEntry](
        io.new_input(manifest.manifest_path),
        _NEWEST,
        read_types={-1: ManifestEntry, 2: DataFile},
        read_enums={0: ManifestEntryStatus, 101: FileFormat, 134: DataFileContent},
    ) as reader:
        return [_entry(one, manifest) for one in reader if one.status is not ManifestEntryStatus.DELETED]


def _entry(entry: ManifestEntry, manifest: ManifestFile) -> Entry:
    sequence = entry.sequence_number
    if sequence is None and (manifest.sequence_number == 0 or entry.status is ManifestEntryStatus.ADDED):
        sequence = manifest.sequence_number
    if sequence is None:
        raise CorruptionError(f"an entry of {manifest.manifest_path} has no sequence number to inherit")
    file = entry.data_file
    found = [
        file[_FIELDS[name]] for name in ("referenced_data_file", "content_offset", "content_size_in_bytes")
    ]
    return Entry(file, sequence, manifest.partition_spec_id, *found)
