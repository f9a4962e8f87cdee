"""A store that counts: what a job asked of storage, by kind, in requests, rounds and bytes.

Wraps any store and changes nothing about it. What is read through a memory map of :meth:`local_path` is not
seen here.
"""

from __future__ import annotations

import builtins
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter, Store

__all__ = ["MeteredStore", "Usage"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store was asked for.

    Attributes
    ----------
    requests
        Requests by kind: the name of the store's method, as ``get`` or ``get_ranges``. A range is a request.
    rounds
        Calls of which each waited for its answer. Calls from several threads at once count one each, so this
        is an upper bound of the dependent rounds.
    bytes_read, bytes_written
        Payload, without what protocols add.
    """

    requests: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def total_requests(self) -> int:
        """Requests of all kinds."""
        return sum(self.requests.values())

    def since(self, before: Usage) -> Usage:
        """Return what was asked for between ``before`` and this."""
        kinds = {kind: count - before.requests.get(kind, 0) for kind, count in self.requests.items()}
        return Usage(
            {kind: count for kind, count in kinds.items() if count},
            self.rounds - before.rounds,
            self.bytes_read - before.bytes_read,
            self.bytes_written - before.bytes_written,
        )


class MeteredStore:
    """``inner`` with a meter; may be used from many threads."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self._lock = threading.Lock()
        self._usage = Usage()

    def __repr__(self) -> str:
        return f"MeteredStore({self.inner!r})"

    def usage(self) -> Usage:
        """Return what was asked for so far."""
        with self._lock:
            return self._usage

    def reset(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._usage = Usage()

    def _count(
        self, kind: str, *, requests: int = 1, rounds: int = 1, read: int = 0, written: int = 0
    ) -> None:
        with self._lock:
            old = self._usage
            self._usage = Usage(
                {**old.requests, kind: old.requests.get(kind, 0) + requests},
                old.rounds + rounds,
                old.bytes_read + read,
                old.bytes_written + written,
            )

    @property
    def uri(self) -> str:
        """The inner store's root."""
        return self.inner.uri

    def get(self, path: str) -> bytes:
        """Return all bytes of one small object."""
        self._count("get")
        data = self.inner.get(path)
        self._count("get", requests=0, rounds=0, read=len(data))
        return data

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        """Return the bytes of each range, in order."""
        if ranges:
            self._count("get_ranges", requests=len(ranges))
        found = self.inner.get_ranges(ranges)
        self._count("get_ranges", requests=0, rounds=0, read=sum(map(len, found)))
        return found

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the last ``length`` bytes (or fewer) and the object's size in bytes."""
        self._count("get_suffix")
        data, size = self.inner.get_suffix(path, length)
        self._count("get_suffix", requests=0, rounds=0, read=len(data))
        return data, size

    def size(self, path: str) -> int:
        """Return the object's size in bytes."""
        self._count("size")
        return self.inner.size(path)

    def create(self, path: str, data: bytes) -> None:
        """Write a new object atomically and durably."""
        self._count("create", written=len(data))
        self.inner.create(path, data)

    def put(self, path: str, data: bytes) -> None:
        """Write an object atomically, replacing what is there."""
        self._count("put", written=len(data))
        self.inner.put(path, data)

    def open_writer(self, path: str) -> ObjectWriter:
        """Return a writer; it counts as one request when closed, and its bytes as they come."""
        return _MeteredWriter(self, self.inner.open_writer(path))

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Iterate over the objects under ``prefix``; counts as one request however many pages it takes."""
        self._count("list")
        return self.inner.list(prefix, after=after)

    def delete(self, path: str) -> None:
        """Remove an object."""
        self._count("delete")
        self.inner.delete(path)

    def local_path(self, path: str) -> str | None:
        """Return the file's path for memory mapping, if there is one; not counted."""
        return self.inner.local_path(path)


class _MeteredWriter:
    """A writer that reports to its store's meter."""

    def __init__(self, store: MeteredStore, inner: ObjectWriter) -> None:
        self._store = store
        self._inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` and return its length in bytes."""
        length = self._inner.write(data)
        self._store._count("open_writer", requests=0, rounds=0, written=length)
        return length

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._inner.tell()

    def flush(self) -> None:
        """Do nothing, as the inner writer does."""
        self._inner.flush()

    @property
    def closed(self) -> bool:
        """Whether the writer was closed or given up."""
        return self._inner.closed

    def close(self) -> None:
        """Make the object visible and durable."""
        self._store._count("open_writer")
        self._inner.close()

    def abort(self) -> None:
        """Give the object up."""
        self._inner.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close on success, abort on an error."""
        if kind is not None:
            self.abort()
        elif not self.closed:
            self.close()
