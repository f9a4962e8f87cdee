"""A store that fails on demand: at a chosen call it crashes, loses the answer, refuses, or lags.

``FaultyStore(inner, {3: Fault.CRASH_AFTER})`` lets the calls 0 to 2 through and crashes right after the
effect of call 3. Calls are numbered in the order they begin, over all threads; closing a writer and each of
its writes are calls too, so that a job of n calls can be crashed in n places: :func:`count_calls` tells n.
After a crash every further call crashes as well (the process is dead), until :meth:`FaultyStore.revive`.
"""

from __future__ import annotations

import builtins
import enum
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

from lake_format.errors import NotWrittenError, StorageError
from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter, Store

Result = TypeVar("Result")


class SimulatedCrash(BaseException):
    """The process ended here: derives from BaseException so that no handler of errors survives it."""


class Fault(enum.Enum):
    """What happens to one call."""

    CRASH_BEFORE = "the process dies before the call has any effect"
    CRASH_AFTER = "the process dies after the effect, before the answer"
    CRASH_MID_WRITE = "the process dies with half of a write in a temporary file; nothing becomes visible"
    LOSE_RESPONSE = "the call takes effect, and the caller sees a StorageError"
    LOSE_REQUEST = "the call takes no effect, and the caller sees a StorageError"
    PERMISSION_DENIED = "refused: permission denied"
    DISK_FULL = "refused: disk full"
    SHORT_READ = "a read returns only the first half of the bytes"
    DELAY = "the call takes 20 ms longer"
    OVERTAKEN = "the call is so slow that another writer commits before it takes effect"
    REPEATED = "the call takes effect, its answer is lost on the way, and the client sends it again"


_CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_MID_WRITE)
_DELAY_SECONDS = 0.02
_READS = frozenset({"get", "get_ranges", "get_suffix", "size", "list"})
_REPEATABLE = frozenset({*_READS, "create", "put", "delete"})
"""One request each. Parts of a large object are numbered, so that sending one again is harmless."""


class FaultyStore:
    """``inner`` with faults.

    Parameters
    ----------
    inner
        The store that does the work.
    plan
        Which call (counted from 0) meets which fault; or a function of the call's number, method and path.
    listing_lag
        Calls of :meth:`list` during which an object written through this store stays unlisted, as in stores
        whose listings lag behind.
    meanwhile
        What another writer does while a call is held up (:attr:`Fault.OVERTAKEN`).
    hide_local_paths
        Answer None from :meth:`local_path`, so that every byte read passes here.
    """

    def __init__(
        self,
        inner: Store,
        plan: Mapping[int, Fault] | Callable[[int, str, str], Fault | None] | None = None,
        *,
        listing_lag: int = 0,
        meanwhile: Callable[[], object] = lambda: None,
        hide_local_paths: bool = True,
    ) -> None:
        self.inner = inner
        self._plan = _by_number(plan) if isinstance(plan, Mapping) else plan
        self._listing_lag = listing_lag
        self._meanwhile = meanwhile
        self._hide_local_paths = hide_local_paths
        self._lock = threading.Lock()
        self._unlisted: dict[str, int] = {}
        self.calls: builtins.list[tuple[str, str]] = []
        self.crashed = False

    @property
    def uri(self) -> str:
        return self.inner.uri

    def revive(self) -> None:
        """Let calls through again, with no more faults: the next process looks at what the last one left."""
        self.crashed = False
        self._plan = None

    def _fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            if self.crashed:
                raise SimulatedCrash
            number = len(self.calls)
            self.calls.append((method, path))
        fault = self._plan(number, method, path) if self._plan is not None else None
        if fault in _CRASHES:
            self.crashed = True
        return fault

    def _call(
        self,
        method: str,
        path: str,
        effect: Callable[[], Result],
        *,
        half: Callable[[], None] = lambda: None,
    ) -> Result:
        """Run one call under the plan; ``half`` does what half a write leaves behind."""
        fault = self._fault(method, path)
        where = f"{method} of {self.uri}/{path}"
        if fault is Fault.CRASH_BEFORE:
            raise SimulatedCrash
        if fault is Fault.CRASH_MID_WRITE:
            half()
            raise SimulatedCrash
        if fault is Fault.LOSE_REQUEST:
            raise StorageError(f"{where} failed: connection reset")
        refused = StorageError if method in _READS else NotWrittenError
        if fault is Fault.PERMISSION_DENIED:
            raise refused(f"{where} failed: permission denied")
        if fault is Fault.DISK_FULL:
            half()
            raise refused(f"{where} failed: the disk is full")
        if fault is Fault.DELAY:
            time.sleep(_DELAY_SECONDS)
        if fault is Fault.OVERTAKEN:
            self._meanwhile()
        result = effect()
        if fault is Fault.REPEATED and method in _REPEATABLE:
            result = effect()
        if fault is Fault.CRASH_AFTER:
            raise SimulatedCrash
        if fault is Fault.LOSE_RESPONSE:
            raise StorageError(f"{where} failed: connection reset")
        if fault is Fault.SHORT_READ:
            return _halved(result)
        return result

    def get(self, path: str) -> bytes:
        return self._call("get", path, lambda: self.inner.get(path))

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        path = ranges[0].path if ranges else ""
        return self._call("get_ranges", path, lambda: self.inner.get_ranges(ranges))

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        return self._call("get_suffix", path, lambda: self.inner.get_suffix(path, length))

    def size(self, path: str) -> int:
        return self._call("size", path, lambda: self.inner.size(path))

    def create(self, path: str, data: bytes) -> None:
        self._call(
            "create", path, lambda: self.inner.create(path, data), half=lambda: self._leave(path, data)
        )
        self._hide(path)

    def put(self, path: str, data: bytes) -> None:
        self._call("put", path, lambda: self.inner.put(path, data), half=lambda: self._leave(path, data))
        self._hide(path)

    def _leave(self, path: str, data: bytes) -> None:
        """Leave half of ``data`` where a killed writer would: in a temporary file that nobody sees."""
        self.inner.open_writer(path).write(data[: len(data) // 2])

    def _hide(self, path: str) -> None:
        if self._listing_lag:
            with self._lock:
                self._unlisted[path] = self._listing_lag

    def open_writer(self, path: str) -> ObjectWriter:
        return _FaultyWriter(
            self, path, self._call("open_writer", path, lambda: self.inner.open_writer(path))
        )

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        found = self._call("list", prefix, lambda: list(self.inner.list(prefix, after=after)))
        with self._lock:
            hidden = set(self._unlisted)
            self._unlisted = {path: left - 1 for path, left in self._unlisted.items() if left > 1}
        return (info for info in found if info.path not in hidden)

    def delete(self, path: str) -> None:
        self._call("delete", path, lambda: self.inner.delete(path))

    def local_path(self, path: str) -> str | None:
        return None if self._hide_local_paths else self.inner.local_path(path)


class _FaultyWriter:
    """A writer whose writes and close are calls of its store."""

    def __init__(self, store: FaultyStore, path: str, inner: ObjectWriter) -> None:
        self._store = store
        self._path = path
        self._inner = inner

    def write(self, data: bytes | bytearray | memoryview) -> int:
        def half() -> None:
            self._inner.write(memoryview(data)[: len(data) // 2])

        return self._store._call("write", self._path, lambda: self._inner.write(data), half=half)

    def tell(self) -> int:
        return self._inner.tell()

    def flush(self) -> None:
        self._inner.flush()

    @property
    def closed(self) -> bool:
        return self._inner.closed

    def close(self) -> None:
        self._store._call("close", self._path, self._inner.close)
        self._store._hide(self._path)

    def abort(self) -> None:
        if not self._store.crashed:  # a dead process cleans nothing up
            self._inner.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self.closed:
            self.close()


def _by_number(plan: Mapping[int, Fault]) -> Callable[[int, str, str], Fault | None]:
    return lambda number, _method, _path: plan.get(number)


def count_calls(job: Callable[[FaultyStore], object], store: Store) -> int:
    """How many calls ``job`` makes when nothing fails: the places where it can be crashed."""
    watched = FaultyStore(store)
    job(watched)
    return len(watched.calls)


def _halved(result: Result) -> Result:
    if isinstance(result, bytes):
        return result[: len(result) // 2]  # type: ignore[return-value]
    if isinstance(result, list):
        return [piece[: len(piece) // 2] for piece in result]  # type: ignore[return-value]
    if isinstance(result, tuple):
        return (result[0][: len(result[0]) // 2], *result[1:])  # type: ignore[return-value]
    return result
