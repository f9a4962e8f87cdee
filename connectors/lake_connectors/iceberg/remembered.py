"""What a table remembers, in its properties, of the Iceberg snapshot it has: enough to tell what changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pyiceberg.table.metadata import TableMetadata

from lake_connectors.iceberg.source import Source
from lake_connectors.iceberg.state import State
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["Remembered"]

_PREFIX = "user.iceberg."
_NUMBERS = ("schema-id", "files", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The state of an Iceberg table that another table has.

    Attributes
    ----------
    uuid, snapshot_id, schema_id
        Which table; which snapshot of it, None for none; by which of its schemas.
    files, rows
        How many data files with live rows the snapshot has, and how many live rows they hold.
    """

    uuid: str
    snapshot_id: int | None
    schema_id: int
    files: int
    rows: int

    @classmethod
    def of_source(cls, source: Source, state: State) -> Self:
        """What is to be remembered of a snapshot."""
        return cls(
            uuid=str(source.metadata.table_uuid),
            snapshot_id=None if source.snapshot is None else source.snapshot.snapshot_id,
            schema_id=source.schema.schema_id,
            files=len(state.entries),
            rows=state.live_rows,
        )

    @classmethod
    def of_table(cls, properties: Mapping[str, str], uri: str) -> Self:
        """What a table remembers.

        Raises
        ------
        InvalidInputError
            The table was not imported, or its properties were changed.
        UnsupportedError
            It was imported by a release that did not remember enough.
        """
        known = {name: properties.get(_PREFIX + name) for name in ("table-uuid", "snapshot-id", *_NUMBERS)}
        uuid, snapshot = known.pop("table-uuid"), known.pop("snapshot-id")
        if uuid is None:
            raise InvalidInputError(
                f"the table at {uri} was not imported from Iceberg", fix="make one with import_table()"
            )
        if any(value is None for value in known.values()):
            raise UnsupportedError(
                f"the table at {uri} was imported by an earlier release, which did not note what a refresh needs",
                fix="import the table anew, to another place",
            )
        numbers = {name: _number(name, str(value)) for name, value in known.items()}
        return cls(
            uuid=uuid,
            snapshot_id=None if snapshot is None else _number("snapshot-id", snapshot),
            schema_id=numbers["schema-id"],
            files=numbers["files"],
            rows=numbers["rows"],
        )

    def properties(self) -> dict[str, str | None]:
        """The table properties that hold this."""
        values = {
            "table-uuid": self.uuid,
            "snapshot-id": self.snapshot_id,
            "schema-id": self.schema_id,
            "files": self.files,
            "rows": self.rows,
        }
        return {_PREFIX + name: None if value is None else str(value) for name, value in values.items()}

    def is_at(self, source: Source) -> bool:
        """Whether the table has this very snapshot."""
        snapshot = None if source.snapshot is None else source.snapshot.snapshot_id
        return (self.snapshot_id, self.schema_id) == (snapshot, source.schema.schema_id)

    def require_same(self, metadata: TableMetadata, uri: str) -> None:
        """InvalidInputError for another Iceberg table than this one."""
        if str(metadata.table_uuid) != self.uuid:
            raise InvalidInputError(
                f"the table at {uri} was imported from the Iceberg table {self.uuid}, and this is "
                f"{metadata.table_uuid}",
                fix="give that table; one that was dropped and made anew is another one",
            )


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.removeprefix("-").isdigit()):
        raise InvalidInputError(
            f"the property {_PREFIX}{name} is {value!r}, which an import never wrote",
            fix="restore its value, or import the table anew, to another place",
        )
    return int(value)
