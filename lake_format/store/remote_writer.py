"""One new object being written to an object store, front to back, in bounded memory.

Small objects (up to 8 MiB) go out in one conditional request at close: create-if-absent holds exactly.
Larger ones are uploaded in parts as they grow; the final step of such an upload cannot be conditional through
obstore, so the writer looks when the upload starts and again just before its end, and two writers of one name
that finish within that moment would both succeed, the later one staying. The format gives every file that may
grow large a random name, so two such writers do not exist; what decides a commit is small.

This module talks to the store through the functions it is given; it knows no keys and no clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from lake_format.errors import AlreadyExistsError, InvalidInputError, LakeError, NotFoundError, StorageError
from lake_format.store.remote_errors import OBSTORE_ERRORS

__all__ = ["PART_BYTES", "RemoteWriter"]

PART_BYTES: Final = 8 << 20
"""Size of an uploaded part, and the largest object written in one request. S3 takes 10,000 parts."""

_MAX_PARTS: Final = 10_000
_GATHER_BYTES: Final = 1 << 20
_FIRST_PAUSE: Final = 0.1


class RemoteWriter:
    """An object on its way; memory use is about 50 MiB at most (a part gathered, four in flight).

    Parameters
    ----------
    name
        The object, for messages.
    create
        Write the whole object unless the path is taken; raises our errors.
    read
        Read the whole object back.
    exists
        Whether the path is taken.
    start_upload
        Begin a multipart upload with parts of the given size; None where objects of any size are created
        in one request.
    failure
        Our error for one of obstore's.
    attempts
        How often to try ``create``.
    """

    def __init__(
        self,
        *,
        name: str,
        create: Callable[[bytes], None],
        read: Callable[[], bytes],
        exists: Callable[[], bool],
        start_upload: Callable[[int], Any] | None,
        failure: Callable[[BaseException], LakeError],
        attempts: int,
    ) -> None:
        self._name = name
        self._create = create
        self._read = read
        self._exists = exists
        self._start_upload = start_upload
        self._failure = failure
        self._attempts = max(1, attempts)
        self._gathered = bytearray()
        self._upload: Any = None
        self._written = 0
        self._closed = False
        self._broken = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append ``data`` and return its length in bytes."""
        self._check_open()
        view = memoryview(data)
        if view.nbytes == 0:
            return 0
        view = view.cast("B")
        self._written += view.nbytes
        if self._upload is None:
            self._gathered += view
            if self._start_upload is not None and len(self._gathered) > PART_BYTES:
                self._begin()
        elif len(self._gathered) + view.nbytes < _GATHER_BYTES:
            self._gathered += view  # a call into the client costs more than copying a small piece
        else:
            self._send_gathered()
            self._send(bytes(view))
        return view.nbytes

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def flush(self) -> None:
        """Do nothing: a reader sees the object after :meth:`close` or never."""

    @property
    def closed(self) -> bool:
        """Whether the writer was closed or given up."""
        return self._closed

    def close(self) -> None:
        """Finish the object; AlreadyExistsError if the path is taken (see the module for what holds)."""
        self._check_open()
        try:
            if self._broken:
                raise StorageError(f"{self._name} was not written: an earlier write to it failed")
            if self._upload is None:
                self._closed = True
                self._create_with_retries(bytes(self._gathered))
            else:
                self._finish_upload()
        finally:
            self.abort()

    def abort(self) -> None:
        """Give the object up; parts already uploaded are thrown away."""
        self._closed = True
        self._gathered = bytearray()
        upload, self._upload = self._upload, None
        if upload is None:
            return
        reason = RuntimeError("given up")
        try:
            upload.__exit__(type(reason), reason, None)
        except OBSTORE_ERRORS:
            # The parts stay until the bucket's rule for incomplete uploads removes them; nothing is visible.
            self._broken = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close on success, abort on an error."""
        if kind is not None:
            self.abort()
        elif not self._closed:
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInputError(f"the writer of {self._name} is closed already")

    def _begin(self) -> None:
        assert self._start_upload is not None
        if self._exists():
            raise AlreadyExistsError(f"{self._name} exists already")
        try:
            self._upload = self._start_upload(PART_BYTES)
        except OBSTORE_ERRORS as error:
            self._broken = True
            raise self._failure(error) from None
        self._send_gathered()

    def _send_gathered(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._send(bytes(gathered))

    def _send(self, data: bytes) -> None:
        """Hand ``data`` to the client, which keeps it uncopied until it is sent: so bytes, never a view."""
        if self._written > _MAX_PARTS * PART_BYTES:
            self._broken = True
            raise StorageError(f"{self._name} is larger than {_MAX_PARTS * PART_BYTES:,} bytes")
        try:
            self._upload.write(data)
        except OBSTORE_ERRORS as error:
            self._broken = True
            raise self._failure(error) from None

    def _finish_upload(self) -> None:
        self._send_gathered()
        if self._exists():
            raise AlreadyExistsError(f"{self._name} exists already")
        try:
            self._upload.close()
        except OBSTORE_ERRORS as error:
            raise self._failure(error) from None
        self._upload = None

    def _create_with_retries(self, data: bytes) -> None:
        """Create the object, trying again when the outcome is open.

        After such a try, "exists already" may be the echo of our own: the object's bytes tell.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self._attempts + 1):
            try:
                self._create(data)
            except AlreadyExistsError:
                if attempt > 1 and self._holds(data):
                    return
                raise
            except StorageError:
                if attempt == self._attempts:
                    raise
                time.sleep(pause)
                pause *= 2
            else:
                return

    def _holds(self, data: bytes) -> bool:
        try:
            return self._read() == data
        except NotFoundError:
            return False
