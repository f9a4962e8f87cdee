"""Iceberg's manifests and lists of them, written and read with pyiceberg's Avro."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
    read_manifest_list,
    write_manifest_list,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema

from lake_connectors.iceberg.publication.folder import Folder
from lake_connectors.iceberg.source import reading

__all__ = ["added", "live_entries", "manifests_of", "removed", "write_list", "write_manifest"]

_CODEC: Final = "deflate"


def added(file: DataFile, snapshot_id: int) -> ManifestEntry:
    """The entry of a file that a snapshot brings."""
    return ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=snapshot_id, data_file=file)


def existing(entry: ManifestEntry) -> ManifestEntry:
    """The entry of a file that was there before, for another manifest."""
    return _as(entry, ManifestEntryStatus.EXISTING, entry.snapshot_id)


def removed(entry: ManifestEntry, snapshot_id: int) -> ManifestEntry:
    """The entry of a file that is there no more from a snapshot on."""
    return _as(entry, ManifestEntryStatus.DELETED, snapshot_id)


def _as(entry: ManifestEntry, status: ManifestEntryStatus, snapshot_id: int | None) -> ManifestEntry:
    return ManifestEntry.from_args(
        status=status,
        snapshot_id=snapshot_id,
        sequence_number=entry.sequence_number,
        file_sequence_number=entry.file_sequence_number,
        data_file=entry.data_file,
    )


def live_entries(folder: Folder, manifest: ManifestFile) -> list[ManifestEntry]:
    """The entries of files that are there, with the numbers they inherit."""
    with reading(manifest.manifest_path):
        return manifest.fetch_manifest_entry(folder, discard_deleted=True)


def manifests_of(folder: Folder, location: str) -> list[ManifestFile]:
    """The manifests that a list names."""
    with reading(location):
        return list(read_manifest_list(folder.new_input(location)))


class _Writer(ManifestWriterV2):
    """pyiceberg's, which writes manifests of data files only; here of delete files too."""

    def __init__(self, content: ManifestContent, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._content = content

    def content(self) -> ManifestContent:
        return self._content

    @property
    def _meta(self) -> dict[str, str]:
        content = "data" if self._content is ManifestContent.DATA else "deletes"
        return {**super()._meta, "content": content}


def write_manifest(
    folder: Folder,
    schema: Schema,
    snapshot_id: int,
    entries: Iterable[ManifestEntry],
    content: ManifestContent = ManifestContent.DATA,
) -> ManifestFile:
    """Write a manifest of at least one entry."""
    output = folder.new_output(folder.new_location(".avro"))
    spec = UNPARTITIONED_PARTITION_SPEC
    with _Writer(content, spec, schema, output, snapshot_id, _CODEC) as writer:
        for entry in entries:
            writer.add_entry(entry)
    return writer.to_manifest_file()


def write_list(
    folder: Folder,
    snapshot_id: int,
    parent_id: int | None,
    sequence: int,
    manifests: Sequence[ManifestFile],
) -> str:
    """Write the list of a snapshot's manifests; where it is."""
    output = folder.new_output(folder.new_location(".list.avro"))
    with write_manifest_list(2, output, snapshot_id, parent_id, sequence, _CODEC) as writer:
        writer.add_manifests(list(manifests))
    return output.location
