"""The folder in which a publication lies, reached through a store: by path for us, by location for pyiceberg."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress
from uuid import uuid4

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

from lake_connectors.iceberg.avro_frames import check_whole
from lake_format.errors import CorruptionError, LakeError, NotFoundError, UnsupportedError
from lake_format.store.base import Store
from lake_format.store.places import Place

__all__ = ["METADATA", "Folder", "location_of"]

METADATA = "metadata/"
_HINT = METADATA + "version-hint.text"
_READABLE = ("file", "s3", "gs")


def location_of(uri: str) -> str:
    """A place as Iceberg's metadata name it: nothing is percent-encoded.

    Raises
    ------
    UnsupportedError
        Readers of Iceberg's tables do not reach such places, or not by such a name.
    """
    place = Place.of(uri)
    location = f"file://{place.address}" if place.scheme == "file" else place.uri
    if place.scheme not in _READABLE or any(mark in location for mark in "?#%"):
        raise UnsupportedError(
            f"{place.uri} cannot be named in Iceberg's metadata",
            fix="publish tables on a local disk, s3:// or gs://, in folders without '?', '#' and '%' in their names",
        )
    return location


class Folder(FileIO):
    """A publication's objects, all of them below ``metadata/`` of a root.

    Parameters
    ----------
    store
        Of the root.
    location
        The root as Iceberg names it.
    """

    def __init__(self, store: Store, location: str) -> None:
        super().__init__()
        self.store = store
        self.location = location
        self.made: list[str] = []
        """Locations of what was written and no metadata name yet."""

    # --- versions of the metadata ---------------------------------------------------------------------------

    def newest(self) -> int:
        """The number of the newest metadata file; 0 where there is none."""
        number = self._hinted() or max(self._listed(), default=0)
        while self.metadata(number + 1) is not None:
            number += 1
        return number

    def metadata(self, number: int) -> bytes | None:
        """A metadata file; None where it is not there."""
        try:
            return self.store.get(metadata_path(number))
        except NotFoundError:
            return None

    def create_metadata(self, number: int, data: bytes) -> None:
        """Make a metadata file, which publishes what it names; AlreadyExistsError where the number is taken."""
        self.store.create(metadata_path(number), data)

    def hint(self, number: int) -> None:
        """Tell readers that know no catalog which metadata file is the newest."""
        self.store.put(_HINT, str(number).encode())

    def _hinted(self) -> int:
        with suppress(LakeError, ValueError):
            number = int(self.store.get(_HINT))
            if number > 0 and self.metadata(number) is not None:
                return number
        return 0

    def _listed(self) -> list[int]:
        names = [info.path.removeprefix(METADATA) for info in self.store.list(METADATA)]
        found = [name.removesuffix(".metadata.json") for name in names if name.endswith(".metadata.json")]
        return [int(name[1:]) for name in found if name[:1] == "v" and name[1:].isdigit()]

    # --- locations ------------------------------------------------------------------------------------------

    def path(self, location: str) -> str:
        """The path of an object of this publication; CorruptionError for any other."""
        path = location.removeprefix(self.location + "/")
        if path == location or not path.startswith(METADATA):
            raise CorruptionError(f"the publication names {location!r}, which lies outside it")
        return path

    def new_location(self, suffix: str) -> str:
        """Where a new object is to be."""
        self.made.append(f"{self.location}/{METADATA}{uuid4()}{suffix}")
        return self.made[-1]

    def discard(self) -> None:
        """Remove what was written for a publication that is not to be; what cannot be removed harms nobody."""
        self.remove(self.made)
        self.made = []

    def remove(self, locations: Iterable[str]) -> None:
        """Remove objects that no metadata name any more."""
        for location in locations:
            with suppress(LakeError):
                self.delete(location)

    def new_input(self, location: str) -> InputFile:
        """For pyiceberg."""
        return _Input(self, location)

    def new_output(self, location: str) -> OutputFile:
        """For pyiceberg."""
        return _Output(self, location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Remove an object of this publication."""
        self.store.delete(self.path(location if isinstance(location, str) else location.location))


def metadata_path(number: int) -> str:
    """Where the metadata file of a number is."""
    return f"{METADATA}v{number}.metadata.json"


class _Input(InputFile):
    def __init__(self, folder: Folder, location: str) -> None:
        super().__init__(location)
        self._folder = folder

    def __len__(self) -> int:
        return self._folder.store.size(self._folder.path(self.location))

    def exists(self) -> bool:
        try:
            return len(self) >= 0
        except NotFoundError:
            return False

    def open(self, seekable: bool = True) -> InputStream:
        data = self._folder.store.get(self._folder.path(self.location))
        if self.location.endswith(".avro"):
            check_whole(data, self.location)
        return io.BytesIO(data)


class _Output(OutputFile):
    """Kept in memory and created whole."""

    def __init__(self, folder: Folder, location: str) -> None:
        super().__init__(location)
        self._folder = folder
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def exists(self) -> bool:
        return False

    def to_input_file(self) -> InputFile:
        return _Input(self._folder, self.location)

    def create(self, overwrite: bool = False) -> OutputStream:
        return _Held(self)

    def finish(self, data: bytes) -> None:
        """Write the object."""
        self._folder.store.create(self._folder.path(self.location), data)
        self._size = len(data)


class _Held(io.BytesIO):
    def __init__(self, owner: _Output) -> None:
        super().__init__()
        self._owner = owner

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            self._owner.finish(data)
