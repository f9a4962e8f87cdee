"""A table's root and the external roots its versions name, as one store: ``@<n>/<path>`` is a path in root n.

Whoever reads a table reads through this and need not know where a file lies. Everything that changes a store goes to
the table's own root only: nothing here can write or delete in an external one.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Self

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter, Store
from lake_format.store.consent import Consent
from lake_format.store.paths import external_path, is_external, split_external
from lake_format.store.places import Place

__all__ = ["TableStore", "name_of"]


class TableStore:
    """The store of one table; safe to use from several threads.

    Parameters
    ----------
    home
        The table's own root.
    consent
        The places outside it that may be read.
    """

    def __init__(self, home: Store, consent: Consent | None = None) -> None:
        self.home = home
        self.consent = consent or Consent()
        self._roots: dict[int, Place] = {}
        self._opened: dict[int, tuple[Store, str]] = {}
        self._lock = Lock()

    @classmethod
    def around(cls, store: Store) -> Self:
        """``store`` itself where it is one of these, else one whose table may read nothing outside its root."""
        return store if isinstance(store, cls) else cls(store)

    def learn(self, roots: Mapping[int, str]) -> None:
        """Know the external roots of a version; CorruptionError if a number means two places in one table."""
        for number, uri in roots.items():
            place = Place.stored(uri)
            with self._lock:
                if self._roots.setdefault(number, place) != place:
                    raise CorruptionError(
                        f"external root {number} is {uri} in one version and {self._roots[number].uri} in another"
                    )

    def root_store(self, number: int) -> tuple[Store, str]:
        """The store of an external root and the root's folder in it, for the pins of clones alone (STO-29)."""
        return self._located(external_path(number, "-"))[0], self._opened[number][1]

    def name(self, path: str) -> str:
        """The object's name for messages: where it is, if that is outside the table's root."""
        number, inner = split_external(path)
        if number is None or number not in self._roots:
            return path
        return f"{self._roots[number].uri}/{inner}"

    # --- reading, anywhere --------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """The table's own root, without credentials."""
        return self.home.uri

    def get(self, path: str) -> bytes:
        """All bytes of one small object."""
        store, inner = self._located(path)
        return store.get(inner)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        """The bytes of each range, in order; one round, however many roots they lie in."""
        if not any(is_external(one.path) for one in ranges):
            return self.home.get_ranges(ranges)
        stores: dict[int, Store] = {}
        wanted: dict[int, builtins.list[tuple[int, ByteRange]]] = {}
        for index, one in enumerate(ranges):
            store, inner = self._located(one.path)
            stores[id(store)] = store
            wanted.setdefault(id(store), []).append((index, ByteRange(inner, one.offset, one.length)))
        results = [b""] * len(ranges)

        def read(key: int) -> None:
            found = stores[key].get_ranges([one for _, one in wanted[key]])
            for (index, _), data in zip(wanted[key], found, strict=True):
                results[index] = data

        if len(stores) == 1:
            read(next(iter(stores)))
            return results
        with ThreadPoolExecutor(len(stores), thread_name_prefix="lake-roots") as pool:
            for done in [pool.submit(read, key) for key in stores]:
                done.result()
        return results

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        """The last ``length`` bytes (or fewer) and the object's size."""
        store, inner = self._located(path)
        return store.get_suffix(inner, length)

    def size(self, path: str) -> int:
        """The object's size in bytes."""
        store, inner = self._located(path)
        return store.size(inner)

    def local_path(self, path: str) -> str | None:
        """The file's path for memory mapping, or None."""
        store, inner = self._located(path)
        return store.local_path(inner)

    # --- changing and listing, at home only ---------------------------------------------------------------

    def create(self, path: str, data: bytes) -> None:
        """Write a new object in the table's own root."""
        self.home.create(_own(path), data)

    def put(self, path: str, data: bytes) -> None:
        """Write a hint in the table's own root, replacing what is there."""
        self.home.put(_own(path), data)

    def open_writer(self, path: str) -> ObjectWriter:
        """A writer for a new object in the table's own root."""
        return self.home.open_writer(_own(path))

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Objects in the table's own root."""
        return self.home.list(_own(prefix), after=after)

    def delete(self, path: str) -> None:
        """Remove an object from the table's own root."""
        self.home.delete(_own(path))

    # --- inside -------------------------------------------------------------------------------------------

    def _located(self, path: str) -> tuple[Store, str]:
        """The store an object is in, and its path there."""
        number, inner = split_external(path)
        if number is None:
            return self.home, path
        opened = self._opened.get(number)
        if opened is None:
            place = self._roots.get(number)
            if place is None:
                raise CorruptionError(f"{path!r} lies in external root {number}, which no version names")
            opened = self._opened[number] = self.consent.opened(place)
        store, folder = opened
        return store, folder + inner


def name_of(store: Store, path: str) -> str:
    """An object's name for messages: with its root where that is not the table's own."""
    return store.name(path) if isinstance(store, TableStore) else path


def _own(path: str) -> str:
    if is_external(path):
        raise InvalidInputError(
            f"{path!r} lies outside the table's root, where nothing is written or removed",
            fix="this is a defect of the program, please report it",
        )
    return path
