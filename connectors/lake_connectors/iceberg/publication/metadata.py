"""Iceberg's table metadata of a publication: read with care, and a snapshot put on top. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ValidationError
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadataV2
from pyiceberg.table.snapshots import MetadataLogEntry, Operation, Snapshot, SnapshotLogEntry, Summary
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER

from lake_connectors.iceberg.publication.snapshots import Change
from lake_format.errors import AlreadyExistsError, CorruptionError
from lake_format.model import Version

__all__ = ["Described", "published_version", "read_metadata", "snapshot_id_of", "with_schema"]

_T = TypeVar("_T")
_TABLE, _VERSION, _COMMIT = "lake.table-id", "lake.version", "lake.commit-id"


def read_metadata(data: bytes, where: str, table_id: str) -> TableMetadataV2:
    """The metadata in a file of an earlier publication.

    Raises
    ------
    CorruptionError
        They cannot be read.
    AlreadyExistsError
        They are of something else than this table.
    """
    try:
        metadata = TableMetadataV2.model_validate_json(data)
    except (ValidationError, ValueError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise CorruptionError(f"{where} cannot be read as metadata of Iceberg: {line[:200]}") from error
    if metadata.properties.get(_TABLE) != table_id:
        raise AlreadyExistsError(
            f"{where} is of another table than {table_id}", fix="publish to an empty place, with location="
        )
    return metadata


def published_version(snapshot: Snapshot) -> tuple[int, str]:
    """Number and commit of the version that a snapshot is; CorruptionError where it does not say."""
    summary = {} if snapshot.summary is None else snapshot.summary.additional_properties
    number, commit = summary.get(_VERSION, ""), summary.get(_COMMIT, "")
    if not number.isdigit() or not commit:
        raise CorruptionError(
            f"snapshot {snapshot.snapshot_id} of the publication does not tell its version",
            fix="something else wrote to it: publish to an empty place, with location=",
        )
    return int(number), commit


def snapshot_id_of(version: Version) -> int:
    """The id of the snapshot that a version is: the same whenever it is published."""
    return int.from_bytes(UUID(version.commit_id).bytes[:8], "big") >> 1 or 1


def with_schema(known: Sequence[Schema], schema: Schema) -> tuple[list[Schema], Schema]:
    """The schemas that a publication lists, and the one of them that is equal to ``schema``."""
    for one in known:
        if one.fields == schema.fields:
            return list(known), one
    number = max((one.schema_id for one in known), default=-1) + 1
    made = Schema(*schema.fields, schema_id=number)
    return [*known, made], made


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A snapshot to be put on top of a publication.

    Attributes
    ----------
    before
        The metadata that it follows; None for the first.
    before_location
        Where those are.
    keep
        How many snapshots stay, this one among them.
    """

    version: Version
    schemas: Sequence[Schema]
    schema: Schema
    manifest_list: str
    change: Change
    files: int
    rows_deleted: int
    location: str
    keep: int
    before: TableMetadataV2 | None
    before_location: str

    def metadata(self) -> TableMetadataV2:
        """The metadata of the publication with the snapshot."""
        before, snapshot = self.before, self._snapshot()
        snapshots = [*([] if before is None else _newest(before.snapshots, self.keep - 1)), snapshot]
        ids = {one.snapshot_id for one in snapshots}
        entry = SnapshotLogEntry.model_validate(
            {"snapshot-id": snapshot.snapshot_id, "timestamp-ms": snapshot.timestamp_ms}
        )
        history = [] if before is None else [one for one in before.snapshot_log if one.snapshot_id in ids]
        last_id = 0 if before is None else before.last_column_id
        return TableMetadataV2.model_validate(
            {
                "format-version": 2,
                "table-uuid": UUID(self.version.table_id),
                "location": self.location,
                "last-sequence-number": snapshot.sequence_number,
                "last-updated-ms": snapshot.timestamp_ms,
                "last-column-id": max(self.version.next_field_id - 1, last_id),
                "schemas": self._used(snapshots),
                "current-schema-id": self.schema.schema_id,
                "partition-specs": [UNPARTITIONED_PARTITION_SPEC],
                "default-spec-id": 0,
                "last-partition-id": 999,
                "sort-orders": [UNSORTED_SORT_ORDER],
                "default-sort-order-id": 0,
                "properties": {_TABLE: self.version.table_id},
                "current-snapshot-id": snapshot.snapshot_id,
                "snapshots": snapshots,
                "snapshot-log": [*history, entry],
                "metadata-log": self._files(),
                "refs": {"main": {"snapshot-id": snapshot.snapshot_id, "type": "branch"}},
            }
        )

    def _used(self, snapshots: Sequence[Snapshot]) -> list[Schema]:
        used = {one.schema_id for one in snapshots}
        return [one for one in self.schemas if one.schema_id in used]

    def _files(self) -> list[MetadataLogEntry]:
        """The metadata files before this one, as many as there are snapshots of them."""
        if self.before is None:
            return []
        entry = {"metadata-file": self.before_location, "timestamp-ms": self.before.last_updated_ms}
        return _newest([*self.before.metadata_log, MetadataLogEntry.model_validate(entry)], self.keep - 1)

    def _snapshot(self) -> Snapshot:
        last = None if self.before is None else self.before.current_snapshot()
        moment = self.version.committed_at // 1000
        return Snapshot.model_validate(
            {
                "snapshot-id": snapshot_id_of(self.version),
                "parent-snapshot-id": None if last is None else last.snapshot_id,
                "sequence-number": 1 if self.before is None else self.before.last_sequence_number + 1,
                "timestamp-ms": moment if last is None else max(moment, last.timestamp_ms),
                "manifest-list": self.manifest_list,
                "schema-id": self.schema.schema_id,
                "summary": self._summary(),
            }
        )

    def _summary(self) -> Summary:
        change, version = self.change, self.version
        figures: dict[str, Any] = {
            _VERSION: version.version,
            _COMMIT: version.commit_id,
            "added-data-files": change.data_files_added,
            "deleted-data-files": change.data_files_removed,
            "added-records": change.rows_added,
            "deleted-records": change.rows_removed,
            "added-delete-files": change.delete_files_added,
            "removed-delete-files": change.delete_files_removed,
            "added-position-deletes": change.rows_deleted,
            "total-data-files": self.files,
            "total-records": version.row_count + self.rows_deleted,
            "total-position-deletes": self.rows_deleted,
        }
        return Summary(
            operation=Operation(change.operation), **{name: str(value) for name, value in figures.items()}
        )


def _newest(values: Sequence[_T], count: int) -> list[_T]:
    return list(values[max(0, len(values) - count) :])
