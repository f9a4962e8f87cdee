"""One new file being written on a local disk: temporary name first, real name at the end.

The steps follow ``spec/storage.md`` (STO-20 to STO-22). This module must not decide where a file may lie: it is
given a path that :class:`~lake_format.store.local.LocalStore` has checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Final, Self

from lake_format.errors import AlreadyExistsError, InvalidInputError, LakeError, NotWrittenError
from lake_format.store import durable

__all__ = ["LocalWriter"]

_BUFFER_BYTES: Final = 1 << 20


class LocalWriter:
    """A temporary file that gets the object's name at :meth:`close`; buffers at most 1 MiB.

    Parameters
    ----------
    final
        The file to make, an absolute path.
    name
        The object's name for messages.
    replace
        Whether an existing file is replaced; otherwise :meth:`close` refuses.
    settle
        Called with the folder once the file has its name, to make the folder's own names durable. None
        leaves out every sync.
    """

    def __init__(self, final: str, name: str, *, replace: bool, settle: Callable[[str], None] | None) -> None:
        self._final = final
        self._name = name
        self._replace = replace
        self._settle = settle
        self._written = 0
        self._broken = False
        self._named = False
        self._temporary = ""
        self._file: BinaryIO | None = None
        self._lock: int | None = None
        try:
            descriptor = self._open_temporary(os.path.dirname(final))
        except OSError as error:
            raise self._failure(error) from error
        self._file = os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` and return its length in bytes."""
        file = self._opened()
        try:
            file.write(data)
        except OSError as error:
            self._broken = True
            raise self._failure(error) from error
        length = memoryview(data).nbytes
        self._written += length
        return length

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def flush(self) -> None:
        """Do nothing: a reader sees the object after :meth:`close` or never."""

    @property
    def closed(self) -> bool:
        """Whether the writer was closed or given up."""
        return self._file is None

    def close(self) -> None:
        """Sync the file, give it its name, sync the folder; AlreadyExistsError if the name is taken."""
        file = self._opened()
        if self._broken:
            self.abort()
            raise NotWrittenError(f"{self._name} was not written: an earlier write to it failed")
        try:
            file.flush()
            if self._settle is not None:
                durable.sync_file(file.fileno())
            self._lock = os.dup(file.fileno())  # nobody may clear the file away before it has its name
            file.close()
        except OSError as error:
            self.abort()
            raise self._failure(error) from error
        try:
            self._publish()
        except FileExistsError as error:
            raise AlreadyExistsError(f"{self._name} exists already") from error
        except OSError as error:
            raise self._failure(error, certain=not self._named and durable.is_refusal(error)) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the descriptor and remove the temporary file, whatever state they are in."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                self._broken = True  # closing flushes: on a full disk that fails again, and nothing is lost
        if self._temporary:
            durable.discard(self._temporary)
            self._temporary = ""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close on success, abort on an error."""
        if kind is not None:
            self.abort()
        elif self._file is not None:
            self.close()

    def _open_temporary(self, folder: str) -> int:
        try:
            descriptor, self._temporary = durable.new_temporary(folder)
        except FileNotFoundError:
            durable.make_folders(folder, sync=self._settle is not None)
            descriptor, self._temporary = durable.new_temporary(folder)
        return descriptor

    def _publish(self) -> None:
        if self._replace:
            os.replace(self._temporary, self._final)
        else:
            durable.publish_new(self._temporary, self._final)
        self._temporary, self._named = "", True
        # A hint that a power loss turns back to its former value is as good as before.
        if self._settle is not None and not self._replace:
            folder = os.path.dirname(self._final)
            durable.sync_folder(folder)
            self._settle(folder)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise InvalidInputError(f"the writer of {self._name} is closed already")
        return self._file

    def _failure(self, error: OSError, *, certain: bool = True) -> LakeError:
        """The error for users; before the file has its name, whatever fails leaves nothing behind."""
        return durable.failure(error, "writing", self._name, not_written=certain)
