"""The data files of an Iceberg table that a table refers to, as its own fragments have them by now.

Reads the table's manifests and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from pyroaring import BitMap64

from lake_format.errors import ConflictError
from lake_format.manifest import named_files
from lake_format.model import Fragment
from lake_format.positions import bitmap_of, deleted_positions
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.store.paths import split_external
from lake_format.store.places import Place

__all__ = ["Held", "HeldFiles"]


@dataclass(frozen=True, slots=True)
class Held:
    """A data file as a table has it.

    Attributes
    ----------
    place
        Where it is.
    index, fragment_id
        Where its fragment stands among those of the version, and the fragment's id.
    rows, deleted_count
        How many rows it has, and how many of them are deleted.
    first_row_id
        The row id of its first row.
    """

    place: Place
    index: int
    fragment_id: int
    rows: int
    deleted_count: int
    first_row_id: int

    def ids_at(self, positions: U64) -> U64:
        """The row ids at positions."""
        return positions + np.uint64(self.first_row_id)


class HeldFiles:
    """The files by where they are, and what this table did to their rows.

    Parameters
    ----------
    snapshot
        The version that is looked at.

    Raises
    ------
    ConflictError
        The table has a file twice.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.by_place: Mapping[Place, Held] = _found(snapshot)

    @property
    def live_rows(self) -> int:
        """How many rows of the files are not deleted."""
        return sum(one.rows - one.deleted_count for one in self.by_place.values())

    def deleted(self, held: Held) -> BitMap64:
        """The positions that are deleted here, whoever did it."""
        if not held.deleted_count:
            return BitMap64()
        return bitmap_of(deleted_positions(self._fragment(held)))

    def has_other_values(self, held: Held) -> bool:
        """Whether rows may have got other values in columns that the file holds."""
        fragment = self._fragment(held)
        (file,) = (group for group in fragment.groups if not group.layout)
        return any(
            not set(file.field_ids).isdisjoint(other.live_field_ids)
            for other in fragment.files()
            if other is not file
        )

    def elsewhere(self, held: Held, positions: U64) -> tuple[U64, Mapping[int, BitMap64]]:
        """Rows of the file that live in other fragments, as they got new values: their ids, and where they are."""
        ids = held.ids_at(positions)
        owners, places = self._snapshot.locations.locate(ids)
        live = owners >= 0
        fragment_ids = self._snapshot.fragments.integers("fragment_id")
        found = {
            int(fragment_ids[owner]): bitmap_of(np.sort(places[owners == owner]))
            for owner in np.unique(owners[live]).tolist()
        }
        return ids[live], found

    def _fragment(self, held: Held) -> Fragment:
        return self._snapshot.fragments.fragment(held.index)


def _found(snapshot: Snapshot) -> Mapping[Place, Held]:
    table = snapshot.fragments
    owners, files = _foreign_files(snapshot)
    columns = ("fragment_id", "row_count", "deleted_count", "first_row_id")
    numbers = [table.integers(name)[owners].tolist() for name in columns]
    roots = {number: Place.stored(uri) for number, uri in snapshot.version.roots.items()}
    found: dict[Place, Held] = {}
    for index, path, *values in zip(owners.tolist(), files, *numbers, strict=True):
        number, inner = split_external(path)
        if number is None or number not in roots:
            continue
        root = roots[number]
        place = Place(root.scheme, root.authority, (*root.parts, *inner.split("/")))
        if place in found:
            raise ConflictError(
                f"the table has the data file {place.uri} twice", fix="import it anew, elsewhere"
            )
        found[place] = Held(place, index, *values)
    return found


def _foreign_files(snapshot: Snapshot) -> tuple[npt.NDArray[np.int64], Iterable[str]]:
    """Of files that no writer of this format wrote: the row of their fragment, and their path."""
    owners, files = named_files(snapshot.fragments.table, "groups")
    foreign = pc.and_(
        pc.equal(pc.binary_length(files.field("layout")), 0), pc.equal(files.field("format"), "parquet")
    )
    return owners.filter(foreign).to_numpy().astype(np.int64), files.field("path").filter(foreign).to_pylist()
