"""Durable, all-or-nothing file operations on a local disk (POSIX): the steps under :mod:`.local`.

Here a file is first written under a temporary name, synced, and only then given its real name in one step, so
that a killed process or a lost power supply leaves either the whole file or none. This module knows files and
folders; it must not know stores, paths of objects, or what the bytes mean. It raises plain ``OSError``;
:func:`failure` turns one into an error for users.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from lake_format.errors import LakeError, MissingObjectError, NotWrittenError, StorageError

__all__ = [
    "discard",
    "discard_abandoned",
    "failure",
    "is_refusal",
    "is_temporary",
    "make_folders",
    "new_temporary",
    "publish_new",
    "sync_file",
    "sync_folder",
]

_TEMPORARY_SUFFIX: Final = ".tmp"
_LOCK_NAME: Final = ".create.lock"

# What link(2) answers where the file system (vfat, exfat, some FUSE and CIFS mounts) has no hard links.
# Only errors that every process meets alike may stand here: a mix of the two ways would not exclude.
_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def new_temporary(folder: str) -> tuple[int, str]:
    """Create an empty file with a name of its own in ``folder``; return its descriptor and its path.

    The descriptor holds a lock on the file, which tells a clean-up that its writer lives.
    """
    path = f"{folder}/.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with suppress(OSError):  # without locks, its age alone says whether it is in use
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, path


def discard_abandoned(path: str) -> bool:
    """Remove a temporary file unless its writer lives; returns whether it was removed."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        os.unlink(path)
        return True
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a file name is one that :func:`new_temporary` gives."""
    return (
        name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX) and len(name) == 33 + len(_TEMPORARY_SUFFIX)
    )


def sync_file(descriptor: int) -> None:
    """Return once the file's bytes are on the medium."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:  # macOS: fsync(2) there stops at the drive's volatile cache
        fcntl.fcntl(descriptor, full_sync)
    else:
        os.fsync(descriptor)


def sync_folder(folder: str) -> None:
    """Return once the folder's names are on the medium."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(folder: str, *, sync: bool) -> None:
    """Create ``folder`` and its missing parents; with ``sync``, each new name is durable on return."""
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        parent = os.path.dirname(folder)
        if parent == folder:
            break
        folder = parent
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        # Also when another process was faster: it may not have come to its own sync yet.
        if sync:
            sync_folder(os.path.dirname(path))


def publish_new(temporary: str, final: str) -> None:
    """Give the finished file ``temporary`` the name ``final``; FileExistsError if that name is taken.

    link(2) creates the second name or fails, in one step. Where there are no hard links, creators take turns
    through an advisory lock, look, and rename: still never half a file, and the lock of a killed process is
    gone with it. That second way excludes only processes whose locks meet (one machine, or a shared file
    system with working flock).
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        # Over NFS the answer to a link that worked may be lost and the repetition finds it done. The link
        # count tells (open(2), under O_EXCL).
        if os.stat(temporary).st_nlink < 2:
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_taking_turns(temporary, final)
        return
    discard(temporary)


def discard(path: str) -> None:
    """Remove a temporary file; one that cannot be removed is left to the next clean-up."""
    try:
        os.unlink(path)
    except OSError:  # not worth failing for: its name says that it is rubbish
        return


def _rename_taking_turns(temporary: str, final: str) -> None:
    with _turn(os.path.dirname(final)):
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final)
        os.rename(temporary, final)


@contextmanager
def _turn(folder: str) -> Iterator[None]:
    """Hold the folder's lock; the lock file itself stays, since removing it would race."""
    descriptor = os.open(f"{folder}/{_LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_refusal(error: OSError) -> bool:
    """Whether an error of giving a file its name says for certain that the name was not given."""
    return error.errno in _REFUSALS


def failure(error: OSError, doing: str, where: str, *, not_written: bool = False) -> LakeError:
    """Return the error a user meets for ``error``, met while ``doing`` something with the object ``where``.

    Parameters
    ----------
    doing
        A verb in its -ing form, such as ``"writing"``.
    where
        The object, with its root, for the message.
    not_written
        Whether it is certain that nothing was written.
    """
    kind = NotWrittenError if not_written else StorageError
    code = error.errno
    what = f"{doing} {where} failed"
    if code in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR) and doing in _READING:
        return MissingObjectError(f"there is no object {where}")
    if code in (errno.ENOSPC, errno.EDQUOT):
        return kind(f"{what}: the disk is full or its quota used up", fix="free some space, then retry")
    if code in (errno.EACCES, errno.EPERM):
        return kind(f"{what}: permission denied", fix="check owner and mode of the file and its folders")
    if code == errno.EROFS:
        return kind(f"{what}: the file system is read-only", fix="mount it writable, or write elsewhere")
    if code in (errno.ENOTDIR, errno.EISDIR):
        return kind(f"{what}: a file stands where a folder is needed, or the other way round")
    if code in (errno.EMFILE, errno.ENFILE):
        return kind(f"{what}: too many open files", fix="raise the limit (ulimit -n)")
    return kind(f"{what}: {error.strerror or error}")


_REFUSALS: Final = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMLINK, errno.ENAMETOOLONG}
)
_READING: Final = frozenset({"reading", "opening", "measuring"})
