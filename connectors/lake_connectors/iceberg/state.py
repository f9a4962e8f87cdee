"""The data files of an Iceberg snapshot that have live rows, by where they are, and what is deleted in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pyroaring import BitMap64

from lake_connectors.iceberg.deletes import deleted_rows
from lake_connectors.iceberg.entries import Entry
from lake_connectors.iceberg.locations import place_of
from lake_connectors.iceberg.source import Source
from lake_format.errors import CorruptionError
from lake_format.store.places import Place

__all__ = ["DataFiles", "State"]

DataFiles = Sequence[tuple[Entry, BitMap64 | None]]
"""Data files, each with the positions that are deleted in it."""


@dataclass(frozen=True, slots=True)
class State:
    """A snapshot as rows: its files, none of which is empty, and the positions deleted in those that have any."""

    entries: Mapping[Place, Entry]
    deleted: Mapping[Place, BitMap64]

    @classmethod
    def of(cls, source: Source) -> Self:
        """Read a snapshot's manifests and deletes.

        Raises
        ------
        UnsupportedError
            The snapshot has equality deletes, or files of a format that cannot be imported.
        CorruptionError
            They cannot be read, contradict each other, or name a data file twice.
        """
        data, deletes = source.files()
        gone = deleted_rows(source.locations, data, deletes)
        entries: dict[Place, Entry] = {}
        deleted: dict[Place, BitMap64] = {}
        for entry in data:
            location = entry.file.file_path
            place, positions = place_of(location), gone.get(location)
            if place in entries:
                raise CorruptionError(f"the Iceberg table's snapshot has the data file {location} twice")
            entries[place] = entry
            if positions is not None:
                deleted[place] = positions
        empty = [
            place
            for place, entry in entries.items()
            if entry.file.record_count <= len(deleted.get(place, ()))
        ]
        for place in empty:
            del entries[place]
            deleted.pop(place, None)
        return cls(entries, deleted)

    @property
    def live_rows(self) -> int:
        """How many rows are not deleted."""
        return sum(one.file.record_count for one in self.entries.values()) - sum(
            map(len, self.deleted.values())
        )

    def files(self) -> DataFiles:
        """The data files, in the order of the manifests."""
        return [(entry, self.deleted.get(place)) for place, entry in self.entries.items()]
