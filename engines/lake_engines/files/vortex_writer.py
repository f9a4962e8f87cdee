"""Writes a scalar column group as a Vortex file, streamed into the store.

Vortex pulls batches and writes to a path; our writers are pushed batches and write to a store. Two threads
turn the one into the other: the encoder pulls from a short queue and writes to a named pipe, the pump moves
the pipe's bytes on. Nothing is spooled, so memory and disk stay bounded.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator

import pyarrow as pa

from lake_engines.files.base import WrittenFile, batch_bytes, check_batch
from lake_engines.files.checksums import HashingWriter
from lake_engines.files.layout import VORTEX_KIND
from lake_engines.files.vortex_errors import first_line, is_ours
from lake_engines.files.vortex_types import vortex_can_hold
from lake_format.errors import InvalidInputError, StorageError, UnsupportedError
from lake_format.store.base import Store

__all__ = ["EDITION", "VortexWriter"]

EDITION = "core2025.10.0"
"""Encodings a file may use: those that readers from Vortex 0.73 on understand."""

_PIPE_BYTES = 1 << 20
_QUEUED_BATCHES = 2
_BATCH_ROWS = 16_384  # smaller batches are joined first: each one costs a hand-over
_BATCH_BYTES = 8 << 20


class _AbortedError(Exception):
    """Ends the encoder's stream when the writer is given up."""


class VortexWriter:
    """A :class:`~lake_engines.files.base.FileWriter` for columns that :func:`vortex_can_hold`."""

    def __init__(self, store: Store, path: str, schema: pa.Schema) -> None:
        for field in schema:
            if not vortex_can_hold(field.type):
                raise UnsupportedError(
                    f"column {field.name!r} of type {field.type} cannot be held by a Vortex file",
                    fix='write it with format="parquet"',
                )
        if len(set(schema.names)) != len(schema) or not len(schema):
            raise InvalidInputError(f"a Vortex file needs columns of different names, not {schema.names}")
        self._schema = schema
        self._path = path
        self._rows = 0
        self._waiting: list[pa.RecordBatch] = []
        self._queue: queue.Queue[pa.RecordBatch | Exception | None] = queue.Queue(_QUEUED_BATCHES)
        self._faults: list[BaseException] = []
        self._finished = False
        self._out = store.open_writer(path)
        self._hashed = HashingWriter(self._out)
        self._open_pipe()
        self._encoder = threading.Thread(target=self._encode, name="lake-vortex-encode", daemon=True)
        self._pump = threading.Thread(target=self._move, name="lake-vortex-pump", daemon=True)
        self._encoder.start()
        self._pump.start()

    def _open_pipe(self) -> None:
        """Make the pipe and hold both its ends open, so that neither thread can block on opening its own."""
        try:
            self._folder = tempfile.mkdtemp(prefix="lake-vortex-")
            self._pipe = os.path.join(self._folder, "pipe")
            os.mkfifo(self._pipe, 0o600)
            self._read_end = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)
            self._write_end = os.open(self._pipe, os.O_WRONLY)
            os.set_blocking(self._read_end, True)
        except OSError as error:
            self._out.abort()
            where = tempfile.gettempdir()
            raise StorageError(
                f"a named pipe for {self._path!r} cannot be made in {where!r}: {error.strerror}",
                fix="set TMPDIR to a folder that can be written to",
            ) from error

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of ``batch``; raises what went wrong in the background since the last call."""
        check_batch(batch, self._schema, self._rows, self._path)
        self._rows += batch.num_rows
        self._waiting.append(batch)
        if (
            sum(part.num_rows for part in self._waiting) >= _BATCH_ROWS
            or sum(batch_bytes(part) for part in self._waiting) >= _BATCH_BYTES
        ):
            self._hand_over()

    def _hand_over(self) -> None:
        parts, self._waiting = self._waiting, []
        if parts:
            self._push(parts[0] if len(parts) == 1 else pa.concat_batches(parts))

    def _push(self, item: pa.RecordBatch | Exception | None) -> None:
        while True:
            if self._faults:
                raise self._fault()
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=0.1)
                return

    def _batches(self) -> Iterator[pa.RecordBatch]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def _encode(self) -> None:
        import vortex  # noqa: PLC0415 - slow to import, and only needed here

        try:
            reader = pa.RecordBatchReader.from_batches(self._schema, self._batches())
            vortex.io.write(reader, self._pipe, edition=EDITION)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread; panics are BaseExceptions
            self._faults.append(error)
        finally:
            os.close(self._write_end)  # the pump sees the end of the stream

    def _move(self) -> None:
        try:
            while data := os.read(self._read_end, _PIPE_BYTES):
                self._hashed.write(data)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._faults.insert(0, error)  # the cause of the encoder's broken pipe, so it comes first
        finally:
            os.close(self._read_end)

    def close(self) -> WrittenFile:
        """Finish the file and make it visible."""
        try:
            self._hand_over()
            self._push(None)
        except BaseException:
            self.abort()
            raise
        self._join()
        if self._faults:
            fault = self._fault()
            self._out.abort()
            raise fault
        layout = self._hashed.layout(self._rows)
        self._out.close()
        return WrittenFile(
            path=self._path,
            format="vortex",
            rows=self._rows,
            size=layout.size,
            layout=layout.to_bytes(VORTEX_KIND),
        )

    def abort(self) -> None:
        """Give the file up; nothing becomes visible."""
        if not self._finished:
            self._waiting = []
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
            with contextlib.suppress(queue.Full):  # full again: the encoder is gone, nobody to tell
                self._queue.put_nowait(_AbortedError())
            self._join()
        self._out.abort()

    def _join(self) -> None:
        self._encoder.join()
        self._pump.join()
        self._finished = True
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fault(self) -> BaseException:
        error = self._faults[0]
        if is_ours(error):
            return error
        return StorageError(f"writing Vortex file {self._path!r} failed: {first_line(error)}")
