"""Keeps record batches until all of them are there: in memory while they are few, in a temporary file beyond.

Reading them back never waits for anybody. It must not know any file format of ours.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from lake_engines.files.base import batch_bytes
from lake_format.errors import StorageError

__all__ = ["Spool"]

_MEMORY_BYTES = 64 << 20


class Spool:
    """Batches of one schema, written once and read once.

    Parameters
    ----------
    path
        What they are for, to be named in errors.
    memory_bytes
        From this many bytes on they go to a temporary file (Arrow IPC stream).
    """

    def __init__(self, schema: pa.Schema, path: str, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._schema = schema
        self._path = path
        self._limit = memory_bytes
        self._held: list[pa.RecordBatch] = []
        self._bytes = 0
        self._file: str | None = None
        self._sink: Any = None
        self._writer: Any = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep one more batch."""
        self._held.append(batch)
        self._bytes += batch_bytes(batch)
        if self._writer is not None or self._bytes > self._limit:
            with self._storing():
                if self._writer is None:
                    self._open()
                for one in self._held:
                    self._writer.write_batch(one)
            self._held = []

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches, in order; nothing can be added afterwards."""
        if self._writer is not None:
            with self._storing():
                self._writer.close()
                self._sink.close()
                source = pa.memory_map(self._file)
            with source, pa.ipc.open_stream(source) as reader:
                yield from reader
        yield from self._held

    def close(self) -> None:
        """Forget everything. Harmless a second time."""
        self._held = []
        if self._file is not None:
            with contextlib.suppress(pa.ArrowException, OSError):
                self._sink.close()
            with contextlib.suppress(OSError):
                os.unlink(self._file)
            self._file = None

    def _open(self) -> None:
        handle, self._file = tempfile.mkstemp(prefix="lake-spool-")
        os.close(handle)
        self._sink = pa.OSFile(self._file, "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            raise StorageError(
                f"rows for {self._path!r} cannot be kept in {tempfile.gettempdir()!r}: {error}",
                fix="set TMPDIR to a folder with enough space",
            ) from error
