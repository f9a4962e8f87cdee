"""Where an Iceberg table's files lie, as external roots, and one way to read them, for pyiceberg too.

Everything an import reads goes through the new table's own store, so that it is opened only in places that the user
named: Iceberg's metadata may name any file there is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile

from lake_connectors.iceberg.avro_frames import check_whole
from lake_format.errors import CorruptionError, InvalidInputError, LakeError, UnsupportedError
from lake_format.roots import numbered_root
from lake_format.store.consent import ExternalNotAllowedError
from lake_format.store.paths import check_object_path, external_path
from lake_format.store.places import Place
from lake_format.store.table_store import TableStore

__all__ = ["Locations", "place_of"]

_PLAIN = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
"""Names that mean the same in whatever way they are written."""
_LARGEST_METADATA = 1 << 30
"""Bytes of a metadata file or manifest; larger ones are not read into memory."""


def place_of(location: str) -> Place:
    """Where a location of Iceberg's points: nothing in it is percent-encoded, ``file:`` may be left out."""
    folder, slash, name = location.rpartition("/")
    if slash and _PLAIN.fullmatch(name) is not None:  # files of one folder are parsed as such once
        within = _place_of(folder + "/")
        return Place(within.scheme, within.authority, (*within.parts, name))
    return _place_of(location)


@lru_cache(4096)
def _place_of(location: str) -> Place:
    if location.startswith("file:"):
        location = "/" + location.removeprefix("file:").lstrip("/")
    return Place.of(location)


class Locations:
    """The places an Iceberg table's files may lie in.

    Parameters
    ----------
    store
        The store of the table that is made; its consent covers the prefixes.
    prefixes
        The places, each an external root of the table if a file lies there.
    known
        The external roots that the table has.
    """

    def __init__(
        self, store: TableStore, prefixes: Sequence[Place], known: Mapping[int, str] | None = None
    ) -> None:
        self.store = store
        self.roots: dict[int, str] = {}
        self._numbers: dict[Place, int] = {}
        self._folders: dict[str, str] = {}
        for place in prefixes:
            number, stored = numbered_root(place.uri, {**(known or {}), **self.roots})
            self.roots[number] = stored
            self._numbers[place] = number
        store.learn(self.roots)
        self.io: FileIO = _StoreIO(self)

    def path(self, location: str) -> str:
        """The path by which the table's metadata name the file; see STO-9 of the specification.

        Raises
        ------
        ExternalNotAllowedError
            The file lies in none of the places.
        """
        folder, slash, name = location.rpartition("/")
        plain = slash and _PLAIN.fullmatch(name) is not None
        if plain and folder in self._folders:  # files of one folder lie in one root
            return check_object_path(self._folders[folder] + name)
        found = self._path(location)
        if plain:
            self._folders[folder] = found.removesuffix(name)
        return found

    def _path(self, location: str) -> str:
        try:
            place = place_of(location)
        except InvalidInputError as error:
            raise CorruptionError(f"the Iceberg table names the file {location!r}: {error.what}") from error
        holders = [prefix for prefix in self._numbers if prefix.covers(place)]
        if not holders:
            raise ExternalNotAllowedError(
                f"the Iceberg table names {place.uri}, outside its own location",
                fix=f"if you trust it, add allow_external={place.folder.uri!r}",
            )
        nearest = max(holders, key=lambda prefix: len(prefix.parts))
        return external_path(self._numbers[nearest], "/".join(place.parts[len(nearest.parts) :]))

    def used(self, paths: Sequence[str]) -> dict[int, str]:
        """Those of the roots that any of the paths lies in."""
        numbers = {int(path[1 : path.index("/")]) for path in paths}
        return {number: self.roots[number] for number in sorted(numbers)}

    def read(self, location: str) -> bytes:
        """All bytes of a metadata file or manifest."""
        path = self.path(location)
        size = self.store.size(path)
        if size > _LARGEST_METADATA:
            raise CorruptionError(f"{location!r} is {size} bytes long, more than any Iceberg metadata")
        data = self.store.get(path)
        if location.endswith(".avro"):
            check_whole(data, location)
        return data


class _StoreIO(FileIO):
    """pyiceberg's way to files, for reading only."""

    def __init__(self, locations: Locations) -> None:
        super().__init__()
        self._locations = locations

    def new_input(self, location: str) -> InputFile:
        return _Input(self._locations, location)

    def new_output(self, location: str) -> OutputFile:
        raise UnsupportedError(f"{location!r} is not written: an import changes nothing at its source")

    def delete(self, location: str | InputFile | OutputFile) -> None:
        raise UnsupportedError(f"{location!r} is not removed: an import changes nothing at its source")


class _Input(InputFile):
    def __init__(self, locations: Locations, location: str) -> None:
        super().__init__(location)
        self._locations = locations

    def __len__(self) -> int:
        return self._locations.store.size(self._locations.path(self.location))

    def exists(self) -> bool:
        try:
            return len(self) >= 0
        except LakeError:
            return False

    def open(self, seekable: bool = True) -> InputStream:
        return io.BytesIO(self._locations.read(self.location))
