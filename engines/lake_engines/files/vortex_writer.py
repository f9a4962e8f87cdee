"""Writes a scalar column group as a Vortex file, streamed into the store.

Vortex pulls batches and writes to a path; our writers are pushed batches and write to a store. So batches are kept
(:mod:`.spool`) until the file is closed; then Vortex encodes them into a named pipe, and a thread moves the pipe's
bytes on. They cannot be handed over as they come: any thread that calls Vortex may be made to pull for any writer
(one executor serves the process, vortex-data 0.93), and would wait there for a batch that it was to bring itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading

import pyarrow as pa

from lake_engines.files.base import WrittenFile, batch_bytes, check_batch
from lake_engines.files.checksums import HashingWriter
from lake_engines.files.layout import VORTEX_KIND
from lake_engines.files.spool import Spool
from lake_engines.files.vortex_errors import first_line, is_ours
from lake_engines.files.vortex_types import vortex_can_hold
from lake_format.errors import InvalidInputError, StorageError, UnsupportedError
from lake_format.store.base import Store

__all__ = ["EDITION", "VortexWriter"]

EDITION = "core2025.10.0"
"""Encodings a file may use: those that readers from Vortex 0.73 on understand."""

_PIPE_BYTES = 1 << 20
_BATCH_ROWS = 16_384  # smaller batches are joined first: each becomes a chunk of its own
_BATCH_BYTES = 8 << 20


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
        self._spool = Spool(schema, path)
        self._faults: list[BaseException] = []
        self._out = store.open_writer(path)
        self._hashed = HashingWriter(self._out)
        self._folder = self._make_folder()

    def _make_folder(self) -> str:
        """A folder for the pipe; made first, as whoever cannot make it should know before there are rows."""
        try:
            return tempfile.mkdtemp(prefix="lake-vortex-")
        except OSError as error:
            self._out.abort()
            raise self._no_pipe(error) from error

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of ``batch``."""
        check_batch(batch, self._schema, self._rows, self._path)
        self._rows += batch.num_rows
        self._waiting.append(batch)
        if (
            sum(part.num_rows for part in self._waiting) >= _BATCH_ROWS
            or sum(batch_bytes(part) for part in self._waiting) >= _BATCH_BYTES
        ):
            self._put_by()

    def _put_by(self) -> None:
        parts, self._waiting = self._waiting, []
        if parts:
            self._spool.add(parts[0] if len(parts) == 1 else pa.concat_batches(parts))

    def close(self) -> WrittenFile:
        """Encode the file and make it visible."""
        try:
            self._put_by()
            self._encode()
            if self._faults:
                raise self._fault()
        except BaseException:
            self.abort()
            raise
        self._clear()
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
        self._waiting = []
        self._clear()
        self._out.abort()

    def _clear(self) -> None:
        self._spool.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _encode(self) -> None:
        import vortex  # noqa: PLC0415 - slow to import, and only needed here

        pipe, read_end, write_end = self._open_pipe()
        pump = threading.Thread(target=self._move, args=(read_end,), name="lake-vortex-pump", daemon=True)
        pump.start()
        try:
            reader = pa.RecordBatchReader.from_batches(self._schema, self._spool.batches())
            vortex.io.write(reader, pipe, edition=EDITION)
        except BaseException as error:  # noqa: BLE001 - raised by close; panics are BaseExceptions
            self._faults.append(error)
        finally:
            os.close(write_end)  # the pump sees the end of the stream
            pump.join()

    def _open_pipe(self) -> tuple[str, int, int]:
        """Make the pipe and hold both its ends open, so that neither side can block on opening its own."""
        try:
            pipe = os.path.join(self._folder, "pipe")
            os.mkfifo(pipe, 0o600)
            read_end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            write_end = os.open(pipe, os.O_WRONLY)
            os.set_blocking(read_end, True)
        except OSError as error:
            raise self._no_pipe(error) from error
        return pipe, read_end, write_end

    def _no_pipe(self, error: OSError) -> StorageError:
        return StorageError(
            f"a named pipe for {self._path!r} cannot be made in {tempfile.gettempdir()!r}: {error.strerror}",
            fix="set TMPDIR to a folder that can be written to",
        )

    def _move(self, read_end: int) -> None:
        try:
            while data := os.read(read_end, _PIPE_BYTES):
                self._hashed.write(data)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self._faults.insert(0, error)  # the cause of the encoder's broken pipe, so it comes first
        finally:
            os.close(read_end)

    def _fault(self) -> BaseException:
        error = self._faults[0]
        if is_ours(error):
            return error
        return StorageError(f"writing Vortex file {self._path!r} failed: {first_line(error)}")
