"""The store interface: everything the project asks of storage, and nothing else.

Every read and write of a table goes through a :class:`Store`, so that tests can wrap one and crash, delay,
lose or reorder any call. A store knows bytes and paths relative to its root; it must not know what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from lake_format.errors import NotFoundError

__all__ = ["ByteRange", "ObjectInfo", "ObjectWriter", "Store", "is_local"]


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes of object ``path`` starting at ``offset``; all in bytes, never past the end."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing tells about one object: its path, size in bytes, and time of last change."""

    path: str
    size: int
    modified_at: float  # seconds since the epoch


class ObjectWriter(Protocol):
    """A new object being written front to back; visible, whole and durable only after :meth:`close`."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` and return its length in bytes."""
        ...

    def tell(self) -> int:
        """Bytes written so far."""
        ...

    def flush(self) -> None:
        """Do nothing a reader could see; here because libraries that write files call it."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the writer was closed or given up; makes a writer a file for ``pyarrow.PythonFile``."""
        ...

    def close(self) -> None:
        """Make the object visible and durable; refuse (AlreadyExistsError) if the path is taken."""
        ...

    def abort(self) -> None:
        """Give the object up; nothing becomes visible. Harmless after ``close`` or a second time."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close on success, abort on an error."""
        ...


@runtime_checkable
class Store(Protocol):
    """One root in some storage. Paths are relative, ``/``-separated, without ``.`` or ``..`` parts.

    Errors
    ------
    Every method raises only errors of :mod:`lake_format.errors`: ``NotFoundError`` for an absent object,
    ``AlreadyExistsError`` from :meth:`create`, ``CorruptionError`` for a range past the end of an object,
    ``InvalidInputError`` for a path that leaves the root, ``UnsupportedError`` for a write to a read-only
    store, and ``StorageError`` for everything else. A ``StorageError`` from a write leaves open whether the
    write took effect, as the answer may be what got lost; a ``NotWrittenError`` says that it did not.
    """

    @property
    def uri(self) -> str:
        """The root as the user wrote it, without credentials: for messages."""
        ...

    def get(self, path: str) -> bytes:
        """All bytes of one small object (metadata). One request."""
        ...

    def get_ranges(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, in order, asked for at once: one round, one request a range.

        Callers coalesce beforehand (:func:`lake_format.store.ranges.read_coalesced`).
        """
        ...

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the last ``length`` bytes (or fewer) and the object's size. One request."""
        ...

    def size(self, path: str) -> int:
        """Return the object's size in bytes."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write a new object atomically and durably; AlreadyExistsError if the path is taken."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write an object atomically, replacing what is there. Only for hints that nothing relies on."""
        ...

    def open_writer(self, path: str) -> ObjectWriter:
        """Return a writer for a new, possibly large object. Bounded memory."""
        ...

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Objects whose path starts with ``prefix`` (a folder ending in ``/`` or ""), sorted by path.

        ``after`` skips every path up to and including it, in the store where that can be done.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove an object; no error if it is gone already."""
        ...

    def local_path(self, path: str) -> str | None:
        """Return the file's path for memory mapping, or None where storage is not a local disk."""
        ...


def is_local(store: Store) -> bool:
    """Whether the store is a local disk, whose files are mapped instead of fetched."""
    try:
        return store.local_path("-") is not None
    except NotFoundError:  # only a disk looks
        return True
