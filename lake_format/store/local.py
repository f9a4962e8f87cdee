"""The store on a local disk, straight on system calls (30 to 100 times faster than through obstore).

Its job is to keep the promises of :class:`~lake_format.store.base.Store` on a POSIX file system: objects that
appear whole, once and durably, and paths that cannot leave the root. How a file gets its name atomically is
:mod:`.durable`'s business. It must not cache bytes or interpret them.
"""

from __future__ import annotations

import builtins
import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from lake_format.errors import CorruptionError, InvalidInputError, MissingObjectError
from lake_format.store import durable
from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter
from lake_format.store.local_writer import LocalWriter
from lake_format.store.paths import check_prefix, check_store_path, is_store_path

__all__ = ["LocalStore"]

_READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_UNCHECKED_READ: Final = 1 << 20
_LARGEST_READ: Final = 1 << 30  # Linux moves at most 0x7ffff000 bytes a call
_FOLDERS_REMEMBERED: Final = 65_536


class LocalStore:
    """A folder of a local disk as a store.

    Parameters
    ----------
    root
        The folder; made when the first object is written. It may itself be a link.
    uri
        The root as the user wrote it; ``root`` if not given.
    sync
        Whether a write returns only once it is on the medium. Without it a lost power supply, though not a
        killed process, may lose writes that were claimed: for tests and scratch data.
    follow_symlinks
        Whether links inside the root may lead out of it. By default such a link is refused, so that a folder
        that came from elsewhere cannot make a reader open other files of this machine.

    Notes
    -----
    Each folder is resolved once per store and then trusted: somebody who can swap folders for links while
    the store is open can write there anyway.
    """

    def __init__(
        self, root: Path | str, *, uri: str | None = None, sync: bool = True, follow_symlinks: bool = False
    ) -> None:
        self._root = os.path.abspath(root)
        self._base = self._root.rstrip("/") + "/"
        self._uri = uri if uri is not None else str(root)
        self._sync = sync
        self._follow = follow_symlinks
        # O_NONBLOCK: a named pipe in the way must be refused, not waited for; files do not heed it.
        self._open_flags = _READ_FLAGS | (0 if follow_symlinks else os.O_NOFOLLOW)
        self._inside: set[str] = set()  # folders (relative) known to lie inside the root
        self._settled: set[str] = set()  # folders whose own names are known to be durable

    def __repr__(self) -> str:
        return f"LocalStore({self._uri!r})"

    @property
    def uri(self) -> str:
        """The root as the user wrote it."""
        return self._uri

    # -- reading ---------------------------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """Return all bytes of one object."""
        descriptor = self._open(path)
        try:
            size = os.fstat(descriptor).st_size
            return self._pread(descriptor, 0, size, path)
        finally:
            os.close(descriptor)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        """Return the bytes of each range, in order; each file is opened once."""
        results = [b""] * len(ranges)
        by_path: dict[str, builtins.list[int]] = {}
        for index, wanted in enumerate(ranges):
            if wanted.length != 0 or wanted.offset < 0:
                by_path.setdefault(wanted.path, []).append(index)
        for path, indices in by_path.items():
            descriptor = self._open(path)
            try:
                for index in indices:
                    wanted = ranges[index]
                    results[index] = self._pread(descriptor, wanted.offset, wanted.length, path)
            finally:
                os.close(descriptor)
        return results

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the last ``length`` bytes (or fewer) and the object's size in bytes."""
        if length < 0:
            raise InvalidInputError(f"cannot read the last {length} bytes of {self._name(path)}")
        descriptor = self._open(path)
        try:
            size = os.fstat(descriptor).st_size
            start = max(0, size - length)
            return self._pread(descriptor, start, size - start, path), size
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        """Return the object's size in bytes."""
        return self._status(path).st_size

    def local_path(self, path: str) -> str:
        """Return the file's own path, for memory mapping; NotFoundError if there is none."""
        self._status(path)
        return self._base + path

    # -- writing ---------------------------------------------------------------------------------------

    def create(self, path: str, data: bytes) -> None:
        """Write a new object atomically and durably; AlreadyExistsError if the path is taken."""
        with self._writer(path, replace=False) as writer:
            writer.write(data)

    def put(self, path: str, data: bytes) -> None:
        """Write an object atomically, replacing what is there."""
        with self._writer(path, replace=True) as writer:
            writer.write(data)

    def open_writer(self, path: str) -> ObjectWriter:
        """Return a writer into a temporary file next to the object; buffers at most 1 MiB in memory."""
        return self._writer(path, replace=False)

    def _writer(self, path: str, *, replace: bool) -> LocalWriter:
        return LocalWriter(
            self._locate(path), self._name(path), replace=replace, settle=self._settle if self._sync else None
        )

    def delete(self, path: str) -> None:
        """Remove an object; no error if it is gone already or is a folder."""
        target = self._locate(path)
        try:
            os.unlink(target)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.EISDIR) or os.path.isdir(target):
                return  # no object has this path
            raise durable.failure(error, "deleting", self._name(path)) from error

    def remove_leftovers(self, older_than: float) -> int:
        """Remove temporary files that killed writers left behind, and return how many.

        Parameters
        ----------
        older_than
            Seconds since the last change. Files of writers that live are left alone, however long they pause,
            where the file system has locks; elsewhere this must exceed their longest pause.
        """
        horizon = time.time() - older_than
        removed = 0
        for folder, folders, names in os.walk(self._root, followlinks=False):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in filter(durable.is_temporary, names):
                try:
                    if os.lstat(f"{folder}/{name}").st_mtime < horizon:
                        removed += durable.discard_abandoned(f"{folder}/{name}")
                except FileNotFoundError:
                    continue  # its writer finished, or another clean-up was faster
                except OSError as error:
                    raise durable.failure(error, "deleting", f"{folder}/{name}") from error
        return removed

    # -- listing ---------------------------------------------------------------------------------------

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        """Iterate over the objects under ``prefix``, sorted by path; linked folders are not entered."""
        check_prefix(prefix)
        if prefix:
            self._check_folder(prefix[:-1])
        return self._walk(prefix, after or "")

    def _walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """Walk depth first; a folder sorts as its name with ``/``, so that whole paths come out in order."""
        for name, entry in self._entries(prefix):
            path = prefix + name
            if name.endswith("/"):
                if path > after or after.startswith(path):
                    yield from self._walk(path, after)
            elif path > after:
                try:
                    status = entry.stat(follow_symlinks=self._follow)
                except FileNotFoundError:
                    continue  # deleted while we list
                except OSError as error:
                    raise durable.failure(error, "listing", self._name(path)) from error
                if stat.S_ISREG(status.st_mode):
                    yield ObjectInfo(path, status.st_size, status.st_mtime)

    def _entries(self, prefix: str) -> builtins.list[tuple[str, os.DirEntry[str]]]:
        try:
            with os.scandir(self._base + prefix) as entries:
                found = [
                    (entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name, entry)
                    for entry in entries
                    if is_store_path(entry.name)  # anything else is not ours to show
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise durable.failure(error, "listing", self._name(prefix)) from error
        found.sort(key=_first)
        return found

    # -- paths -----------------------------------------------------------------------------------------

    def _name(self, path: str) -> str:
        """Name the object in messages."""
        return f"{self._uri.rstrip('/')}/{path}"

    def _locate(self, path: str) -> str:
        """Return the file that holds an object, after the checks that keep it inside the root."""
        check_store_path(path)
        folder = path.rpartition("/")[0]
        if folder and folder not in self._inside:
            self._check_folder(folder)
        return self._base + path

    def _check_folder(self, folder: str) -> None:
        if self._follow or folder in self._inside:
            return
        if not self._is_inside(self._base + folder):
            raise InvalidInputError(
                f"{self._name(folder)} is a link that leads out of the root",
                fix="copy the files in, or open the store with follow_symlinks=true if you trust the link",
            )
        if os.path.isdir(self._base + folder):  # what is not there yet may still become a link
            if len(self._inside) >= _FOLDERS_REMEMBERED:
                self._inside.clear()
            self._inside.add(folder)

    def _is_inside(self, target: str) -> bool:
        root = os.path.realpath(self._root)
        real = os.path.realpath(target)
        return real == root or real.startswith(root.rstrip("/") + "/")

    def _check_link(self, path: str) -> None:
        """Allow an object that is a link only if it stays inside the root."""
        if not self._follow and not self._is_inside(self._base + path):
            raise InvalidInputError(
                f"{self._name(path)} is a link that leads out of the root",
                fix="copy the file in, or open the store with follow_symlinks=true if you trust the link",
            )

    def _open(self, path: str) -> int:
        """Return a descriptor of the object for reading."""
        target = self._locate(path)
        try:
            descriptor = os.open(target, self._open_flags)
        except OSError as error:
            if error.errno != errno.ELOOP or not os.path.islink(target):
                raise durable.failure(error, "opening", self._name(path)) from error
            descriptor = self._open_linked(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise MissingObjectError(f"there is no object {self._name(path)}")
        return descriptor

    def _open_linked(self, path: str) -> int:
        self._check_link(path)
        try:
            return os.open(self._base + path, _READ_FLAGS)
        except OSError as error:
            raise durable.failure(error, "opening", self._name(path)) from error

    def _status(self, path: str) -> os.stat_result:
        """Return what stat(2) tells of an object."""
        target = self._locate(path)
        try:
            status = os.lstat(target)
            if stat.S_ISLNK(status.st_mode):
                self._check_link(path)
                status = os.stat(target)
        except OSError as error:
            raise durable.failure(error, "measuring", self._name(path)) from error
        if not stat.S_ISREG(status.st_mode):
            raise MissingObjectError(f"there is no object {self._name(path)}")
        return status

    def _pread(self, descriptor: int, offset: int, length: int, path: str) -> bytes:
        """Return ``length`` bytes from ``offset``, or CorruptionError with the file's real size."""
        if offset < 0 or length < 0:
            raise CorruptionError(f"impossible range of {self._name(path)}: {length} bytes at {offset}")
        try:
            # A length from damaged metadata must not make us allocate it: big reads look at the size first.
            if length > _UNCHECKED_READ and offset + length > os.fstat(descriptor).st_size:
                data = b""
            else:
                data = os.pread(descriptor, min(length, _LARGEST_READ), offset)
                if len(data) < length:
                    data = _read_rest(descriptor, offset, length, data)
        except (OSError, OverflowError) as error:
            if isinstance(error, OverflowError):
                data = b""  # an offset past 2**63: certainly past the end
            else:
                raise durable.failure(error, "reading", self._name(path)) from error
        if len(data) != length:
            size = os.fstat(descriptor).st_size
            raise CorruptionError(
                f"{self._name(path)} has {size} bytes, but bytes {offset} to {offset + length} are expected",
                fix="the file is truncated or is not the one the metadata speaks of",
            )
        return data

    def _settle(self, folder: str) -> None:
        """Make sure that the names of ``folder`` (absolute) and its parents up to the root are durable."""
        if folder in self._settled:
            return
        durables: set[str] = set()
        current = folder
        while len(current) > len(self._root) and current not in self._settled:
            current = os.path.dirname(current)
            durables |= _folders_in(current)  # looked at before the sync, which covers what is there by then
            durable.sync_folder(current)
        if len(self._settled) >= _FOLDERS_REMEMBERED:
            self._settled.clear()
        self._settled |= durables


def _folders_in(folder: str) -> set[str]:
    """The folders directly below one."""
    with os.scandir(folder) as entries:
        return {f"{folder}/{entry.name}" for entry in entries if entry.is_dir(follow_symlinks=False)}


def _read_rest(descriptor: int, offset: int, length: int, start: bytes) -> bytes:
    """Go on after a read that brought only ``start``; returns what there is."""
    pieces, have = [start], len(start)
    while have < length:
        piece = os.pread(descriptor, min(length - have, _LARGEST_READ), offset + have)
        if not piece:
            break
        pieces.append(piece)
        have += len(piece)
    return b"".join(pieces)


def _first(pair: tuple[str, os.DirEntry[str]]) -> str:
    return pair[0]
