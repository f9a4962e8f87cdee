"""The store over obstore: S3, Google Cloud Storage, Azure, plain HTTP (read-only), and memory.

Its job is to keep the promises of :class:`~lake_format.store.base.Store` over an object store's own: many
ranges at once, conditional creation that is tried exactly once, and errors that say where. It must not know
URIs or options (:mod:`.opening` does) and never retries a conditional write whose answer was lost.
"""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import obstore
from obstore.exceptions import NotSupportedError

from lake_format.errors import (
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    NotWrittenError,
    StorageError,
    UnsupportedError,
)
from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter
from lake_format.store.paths import check_prefix, check_store_path, is_store_path
from lake_format.store.remote_errors import OBSTORE_ERRORS, is_refusal, translate
from lake_format.store.remote_writer import RemoteWriter

__all__ = ["ObjectStore"]

MAX_IN_FLIGHT: Final = 128
_LIST_CHUNK: Final = 1000


class ObjectStore:
    """A prefix of a bucket (or of a memory store) as a store.

    Parameters
    ----------
    client
        obstore's store for the bucket, which repeats failed requests; used for everything that may safely
        be done twice.
    once
        The same without repetition, for conditional writes: after a lost answer, a repeated create would
        find its own object and call it somebody else's. It is up to the caller to look (for commits: read
        the object back and compare its commit id).
    uri
        The root as the user wrote it, without credentials.
    prefix
        Where the root lies in the bucket: ``""`` or a path without a trailing ``/``.
    secrets
        Texts that no message may show.
    in_memory
        Calls take microseconds and data is in memory anyway: no threads, no multipart uploads.
    read_only
        Refuse every write, and listings.
    sorted_listing
        False for stores that list in no order (S3 directory buckets): listings are then sorted here.
    attempts
        How often a write that is not conditional on anything else may be tried.
    """

    def __init__(
        self,
        client: Any,
        *,
        once: Any = None,
        uri: str,
        prefix: str = "",
        secrets: tuple[str, ...] = (),
        in_memory: bool = False,
        read_only: bool = False,
        sorted_listing: bool = True,
        attempts: int = 5,
    ) -> None:
        self._client = client
        self._once = once if once is not None else client
        self._uri = uri
        self._prefix = prefix + "/" if prefix else ""
        self._secrets = secrets
        self._in_memory = in_memory
        self._read_only = read_only
        self._sorted_listing = sorted_listing
        self._attempts = attempts

    def __repr__(self) -> str:
        return f"ObjectStore({self._uri!r})"

    @property
    def uri(self) -> str:
        """The root as the user wrote it, without credentials."""
        return self._uri

    # -- reading ---------------------------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """Return all bytes of one small object. One request."""
        key = self._key(path)
        try:
            return bytes(obstore.get(self._client, key).bytes())
        except OBSTORE_ERRORS as error:
            raise self._failure(error, "reading", path) from None

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        """Return the bytes of each range, in order; up to 128 requests are under way at a time."""
        for wanted in ranges:
            if wanted.offset < 0 or wanted.length < 0:
                raise CorruptionError(
                    f"impossible range of {self._name(wanted.path)}: {wanted.length} bytes at {wanted.offset}"
                )
        if self._in_memory or len(ranges) <= 1:
            return [self._get_range(wanted) for wanted in ranges]
        return _all_at_once(self._get_range, ranges)

    def _get_range(self, wanted: ByteRange) -> bytes:
        key = self._key(wanted.path)
        if wanted.length == 0:
            return b""
        try:
            found = obstore.get_range(self._client, key, start=wanted.offset, length=wanted.length)
        except (*OBSTORE_ERRORS, OverflowError) as error:
            failure = self._failure(error, "reading", wanted.path)
            if isinstance(failure, NotFoundError):
                raise failure from None
            self._check_range(wanted)
            raise failure from None
        if len(found) != wanted.length:
            self._check_range(wanted)
            raise CorruptionError(
                f"the store sent {len(found)} of {wanted.length} bytes at {wanted.offset} "
                f"of {self._name(wanted.path)}"
            )
        return bytes(found)

    def _check_range(self, wanted: ByteRange) -> None:
        """Raise CorruptionError if the range reaches past the object's end; costs a request."""
        size = self.size(wanted.path)
        end = wanted.offset + wanted.length
        if end > size:
            raise CorruptionError(
                f"{self._name(wanted.path)} has {size} bytes, "
                f"but bytes {wanted.offset} to {end} are expected",
                fix="the object is truncated or is not the one the metadata speaks of",
            )

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the last ``length`` bytes (or fewer) and the object's size in bytes.

        One request; two on Azure, which knows no suffix ranges, and for an empty object.
        """
        if length < 0:
            raise InvalidInputError(f"cannot read the last {length} bytes of {self._name(path)}")
        key = self._key(path)
        if length == 0:
            return b"", self.size(path)
        try:
            found = obstore.get(self._client, key, options={"range": {"suffix": length}})
            return bytes(found.bytes()), found.meta["size"]
        except (NotSupportedError, NotImplementedError):
            size = self.size(path)
            start = max(0, size - length)
            return self._get_range(ByteRange(path, start, size - start)), size
        except OBSTORE_ERRORS as error:
            failure = self._failure(error, "reading", path)
            # A suffix of nothing is an error by RFC 9110: an empty object has no range that satisfies.
            if isinstance(failure, NotFoundError) or self.size(path) != 0:
                raise failure from None
            return b"", 0

    def size(self, path: str) -> int:
        """Return the object's size in bytes."""
        key = self._key(path)
        try:
            return int(obstore.head(self._client, key)["size"])
        except OBSTORE_ERRORS as error:
            raise self._failure(error, "measuring", path) from None

    def local_path(self, path: str) -> None:
        """Return None: nothing here is a file that could be mapped."""
        self._key(path)

    # -- writing ---------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes) -> None:
        """Write a new object in one conditional request that is never repeated.

        AlreadyExistsError: the path was taken and stays as it was. StorageError: the object may or may not
        be there; look before trying again.
        """
        self._create_once(self._write_key(path), path, data)

    def _create_once(self, key: str, path: str, data: bytes) -> None:
        try:
            obstore.put(self._once, key, bytes(data), mode="create", use_multipart=False)
        except OBSTORE_ERRORS as error:
            failure = self._failure(error, "writing", path)
            if isinstance(failure, StorageError) and is_refusal(error):
                failure = NotWrittenError(failure.what, fix=failure.fix)
            raise failure from None

    def put(self, path: str, data: bytes) -> None:
        """Write an object in one request, replacing what is there."""
        key = self._write_key(path)
        try:
            obstore.put(self._client, key, bytes(data), use_multipart=False)
        except OBSTORE_ERRORS as error:
            raise self._failure(error, "writing", path) from None

    def open_writer(self, path: str) -> ObjectWriter:
        """Return a writer for a new, possibly large object; see :class:`RemoteWriter` for what it holds."""
        key = self._write_key(path)
        return RemoteWriter(
            name=self._name(path),
            create=lambda data: self._create_once(key, path, data),
            read=lambda: self.get(path),
            exists=lambda: self._exists(path),
            start_upload=None if self._in_memory else lambda size: self._start_upload(key, size),
            failure=lambda error: self._failure(error, "writing", path),
            attempts=self._attempts,
        )

    def _start_upload(self, key: str, part_bytes: int) -> Any:
        return obstore.open_writer(self._client, key, buffer_size=part_bytes, max_concurrency=4)

    def _exists(self, path: str) -> bool:
        try:
            self.size(path)
        except NotFoundError:
            return False
        return True

    def delete(self, path: str) -> None:
        """Remove an object; no error if it is gone already."""
        key = self._write_key(path)
        try:
            obstore.delete(self._client, key)
        except FileNotFoundError:
            return
        except OBSTORE_ERRORS as error:
            raise self._failure(error, "deleting", path) from None

    # -- listing ---------------------------------------------------------------------------------------

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Iterate over the objects under ``prefix``, sorted by path; pages of 1,000, fetched as needed."""
        check_prefix(prefix)
        self._check_process()
        if self._read_only:
            raise UnsupportedError(
                f"{self._uri} cannot be listed", fix="open it through s3, gs, az or a path"
            )
        found = self._walk(prefix, after if self._sorted_listing else None)
        if not self._sorted_listing:
            found = iter(sorted(found, key=lambda info: info.path))
        return (info for info in found if after is None or info.path > after)

    def _walk(self, prefix: str, after: str | None) -> Iterator[ObjectInfo]:
        folder = (self._prefix + prefix).rstrip("/") or None
        offset = self._prefix + after if after else None
        cut, previous = len(self._prefix), ""
        try:
            for chunk in obstore.list(self._client, folder, offset=offset, chunk_size=_LIST_CHUNK):
                for meta in chunk:
                    path = meta["path"][cut:]
                    if not is_store_path(path):
                        continue
                    if self._sorted_listing and path <= previous:
                        raise UnsupportedError(
                            f"{self._uri} lists objects out of order ({previous!r}, {path!r})"
                        )
                    previous = path
                    yield ObjectInfo(path, meta["size"], meta["last_modified"].timestamp())
        except OBSTORE_ERRORS as error:
            raise self._failure(error, "listing", prefix) from None

    # -- names -----------------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        """Return the object's key in the bucket; every operation on an object passes here."""
        self._check_process()
        return self._prefix + check_store_path(path)

    def _check_process(self) -> None:
        """Refuse to wait for ever: obstore's threads do not survive a fork, and the child cannot start new."""
        _process.started = True
        if _process.forked and not self._in_memory:
            raise UnsupportedError(
                f"{self._uri} cannot be used in a forked process whose parent used an object store",
                fix="start worker processes with the 'spawn' or 'forkserver' method",
            )

    def _write_key(self, path: str) -> str:
        key = self._key(path)
        if self._read_only:
            raise UnsupportedError(
                f"{self._uri} is read-only", fix="write through s3, gs, az or a local path"
            )
        return key

    def _name(self, path: str) -> str:
        """Name the object in messages."""
        return f"{self._uri.rstrip('/')}/{path}"

    def _failure(self, error: BaseException, doing: str, path: str) -> LakeError:
        return translate(error, doing, self._name(path), self._secrets)


class _Process:
    """Whether obstore was used in this process, and whether this process was forked from one where it was."""

    def __init__(self) -> None:
        self.started = False
        self.forked = False
        os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = self.started


class _Workers:
    """Threads that wait for range requests: one set a process, started as needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="lake-ranges")
            return self._pool.submit(work)


_process: Final = _Process()
_workers: Final = _Workers()


def _all_at_once(read: Callable[[ByteRange], bytes], ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
    """Read all ranges, each thread taking the next as it gets free; the first error stops the rest.

    obstore's own ``get_ranges`` keeps about ten requests in flight, which on a network with 20 ms a request
    is ten times slower for 100 ranges; a thread that waits in obstore holds no interpreter lock.
    """
    results = [b""] * len(ranges)
    todo = iter(range(len(ranges)))
    failed = threading.Event()

    def work() -> None:
        try:
            for index in todo:  # next() of a range iterator is one step under the interpreter lock
                if failed.is_set():
                    return
                results[index] = read(ranges[index])
        except BaseException:
            failed.set()
            raise

    futures: builtins.list[Future[None]] = []
    futures.extend(_workers.submit(work) for _ in range(min(MAX_IN_FLIGHT, len(ranges))))
    for future in futures:
        future.exception()  # wait for all: nothing may still run when the caller goes on
    for future in futures:
        future.result()
    return results
