"""The version log: find the newest version, read one, claim the next. No domain logic.

A commit *is* the creation of the next numbered version object by create-if-absent; nothing else makes data
visible (spec/tables.md, COM clauses). The object ``_lake/latest`` is a copy of some recent version object: a
reader starts there and probes forward, so that the newest version costs two requests however many exist. The
copy is only a hint: it may lag, be missing or be broken, and nothing relies on it. A branch has versions and a
hint of its own, in a folder of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from lake_format.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from lake_format.codec import decode_version, encode_version
from lake_format.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    LakeError,
    NotFoundError,
    NotWrittenError,
    StateUnknownError,
    StorageError,
    UnsupportedError,
)
from lake_format.model import Version
from lake_format.paths import checkpoint_path, hint_path, version_number, version_path, versions_folder
from lake_format.store.base import ByteRange, Store
from lake_format.store.probe import create_first
from lake_format.store.table_store import TableStore
from lake_format.tombstone import Tombstone, decode_tombstone, is_tombstone

__all__ = ["ExpiredError", "VersionLog", "made_anew"]

_CLAIM_ATTEMPTS = 5
_SURE_SECONDS = 1.0
"""For so long a version that was read from a remote store is taken to be there without asking."""

_SURE_TO_COMMIT = 60.0
"""The same before a commit, which would otherwise cost a request more."""


class ExpiredError(NotFoundError):
    """The version was there once; it expired and was collected."""

    code = "expired"


def made_anew() -> ConflictError:
    """What to raise where another table lies in the place of the one that was read."""
    return ConflictError("the table was dropped and made anew meanwhile", fix="open it again")


@dataclass(frozen=True, slots=True)
class _Sight:
    """The version seen last: what marks its object, and when that was."""

    table_id: str
    commit_id: str
    mark: tuple[int, ...] | None
    at: float


class VersionLog:
    """The versions of one line of a table in one store.

    Parameters
    ----------
    store
        The table's root.
    sleep
        Waits between attempts at an unanswered claim, in seconds; tests own it.
    line
        0 is main, every other number a branch.
    """

    def __init__(self, store: Store, sleep: Callable[[float], None] = time.sleep, *, line: int = 0) -> None:
        self.line = line
        self._store = TableStore.around(store)
        self._sleep = sleep
        self._encoded: tuple[str, bytes] | None = None
        self._sight = _Sight("", "", None, 0.0)

    @property
    def uri(self) -> str:
        """The table's root, for messages."""
        return self._store.uri

    def of_line(self, line: int) -> VersionLog:
        """The versions of another line of the same table."""
        return self if line == self.line else VersionLog(self._store, self._sleep, line=line)

    def read(self, version: int) -> Version:
        """The version of this number; NotFoundError when it does not exist, ExpiredError when it was collected."""
        found = self._look(version)
        if found is None:
            raise NotFoundError(
                f"{self._store.uri} has no version {version}", fix="versions() lists those there are"
            )
        if isinstance(found, Tombstone):
            raise ExpiredError(
                f"version {version} of {self._store.uri} has expired", fix="versions() lists those there are"
            )
        return found

    def find(self, version: int) -> Version | None:
        """The version of this number, or None."""
        found = self._look(version)
        return found if isinstance(found, Version) else None

    def _look(self, version: int) -> Version | Tombstone | None:
        """What lies under the name of a version."""
        path = version_path(version, self.line)
        try:
            data = self._store.get(path)
        except NotFoundError:
            return None
        where = f"{self._store.uri}/{path}"
        found = decode_tombstone(data, where) if is_tombstone(data) else decode_version(data, where)
        if found.version != version:
            raise CorruptionError(f"{where} holds version {found.version}")
        if isinstance(found, Version):
            self._store.learn(found.roots)
        return found

    def hint(self) -> Version | None:
        """Some recent version, from one request; None where there is no usable hint."""
        try:
            path = hint_path(self.line)
            version = decode_version(self._store.get(path), f"{self._store.uri}/{path}")
            self._store.learn(version.roots)
        except (NotFoundError, CorruptionError, UnsupportedError):
            # Whatever is wrong with a hint, the version objects themselves decide what can be said.
            return None
        return version

    def latest(self) -> Version:
        """The newest version: the hint, or else version 1, then forward. NotFoundError where there is no table."""
        start = self.hint() or self._look(1)
        if isinstance(start, Tombstone):  # its horizon is a later version, which is nearer to the newest
            newest = self._forward(start.horizon, None)
        else:
            newest = self.latest_from(start or self._newest_listed())
        self.note(newest)
        return newest

    def latest_from(self, known: Version) -> Version:
        """The newest version, starting from one known to exist: gallops forward, then bisects.

        Numbers are never freed, so a version that was collected since still leads to the newest.
        """
        return self._forward(known.version, known)

    def newest_there(self, known: Version) -> Version:
        """The newest version of the table that is there now: another one's, where it was removed and made anew.

        What costs no request is looked at each time, a remote store is asked again after a second.

        Raises
        ------
        NotFoundError
            There is no table any more.
        """
        newest = self.latest_from(known)
        if newest is known:
            if self._is_sure(newest):
                return newest
            found = self.find(newest.version)
            if found is None or found.commit_id != newest.commit_id:
                return self.latest()
        self.note(newest)
        return newest

    def require(self, version: Version) -> None:
        """Refuse to go on from a version whose table was removed since it was read.

        What costs no request is looked at each time, a remote store is asked where nothing was seen for a minute.

        Raises
        ------
        NotFoundError
            The version is not there.
        ConflictError
            It is another table's.
        """
        if version.line != self.line or self._is_sure(version):
            return
        seen = self._sight
        remote = seen.mark is None and seen.table_id == version.table_id
        if remote and time.monotonic() - seen.at < _SURE_TO_COMMIT:
            return
        found = self._look(version.version)
        if found is None:
            raise NotFoundError(
                f"the table at {self._store.uri} was removed since its version {version.version} was read",
                fix="nothing was committed; open it again if another took its place",
            )
        if isinstance(found, Version) and found.commit_id != version.commit_id:
            raise made_anew()
        self.note(version)

    def note(self, version: Version) -> None:
        """Remember that a version was read just now."""
        self._sight = _Sight(version.table_id, version.commit_id, self._mark(version), time.monotonic())

    def _is_sure(self, version: Version) -> bool:
        """Whether a version is surely where it was read last."""
        seen = self._sight
        if seen.commit_id != version.commit_id or seen.mark == () or seen.mark != self._mark(version):
            return False
        return seen.mark is not None or time.monotonic() - seen.at < _SURE_SECONDS

    def _mark(self, version: Version) -> tuple[int, ...] | None:
        """What changes when a version's object goes or is made anew; None where telling costs a request."""
        try:
            path = self._store.local_path(version_path(version.version, self.line))
            if path is None:
                return None
            found = os.stat(path)
        except (NotFoundError, FileNotFoundError):
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _forward(self, number: int, known: Version | Tombstone | None) -> Version:
        """The newest version from a number that is taken by ``known``, or None where that was not read."""
        low, found, step = number, known, 1
        while (ahead := self._look(low + step)) is not None:
            low, found, step = low + step, ahead, step * 2
        high = low + step  # does not exist
        while high - low > 1:
            middle = self._look((low + high) // 2)
            if middle is None:
                high = (low + high) // 2
            else:
                low, found = middle.version, middle
        return found if isinstance(found, Version) else self.read(low)

    def numbers(self) -> list[int]:
        """The numbers of all versions, ascending, by listing."""
        listed = self._store.list(versions_folder(self.line))
        found = (version_number(info.path, self.line) for info in listed)
        return sorted(number for number in found if number is not None)

    def claim(self, version: Version) -> bool:
        """Try to make ``version`` the next one; the first of a table also puts the store to the test.

        Returns
        -------
        bool
            True when it landed, False when another commit took the number.

        Raises
        ------
        NotWrittenError
            The store refused: nothing landed, and nothing will.
        StateUnknownError
            The store did not answer, and neither reading back nor trying again told what happened.
        UnsupportedError
            The store overwrites what it should refuse to create; no table can be kept there.
        """
        path, data = version_path(version.version, self.line), encode_version(version)
        self._encoded = (version.commit_id, data)
        create = self._store.create if version.parent is not None else partial(create_first, self._store)
        for attempt in range(_CLAIM_ATTEMPTS):
            try:
                create(path, data)
            except AlreadyExistsError as error:
                # Ours, if an earlier attempt landed and its answer was lost (here or in the store's client).
                return self._settle(version, error)
            except StorageError as error:
                if attempt == 0 and isinstance(error, NotWrittenError):
                    raise  # no earlier attempt is under way that may yet land
                # The response may be lost while the write landed, or may land later: creating the same bytes
                # again is harmless, and the commit id read back tells whose they are.
                if attempt == _CLAIM_ATTEMPTS - 1:
                    return self._settle(version, error)
                self._sleep(0.05 * 2**attempt)
            else:
                self.note(version)
                return True
        raise AssertionError("unreachable")

    def checkpoint(self, number: int, table_id: str) -> Checkpoint | None:
        """The history checkpoint of this number, from one request; None where there is no usable one."""
        path = checkpoint_path(number, self.line)
        try:
            return self._checked_checkpoint(self._store.get(path), number, table_id)
        except NotFoundError:
            return None

    def checkpoints(
        self, numbers: Sequence[int], sizes: Sequence[int | None], table_id: str
    ) -> list[Checkpoint | None]:
        """Several checkpoints, in one round where the size of all is known."""
        ranges = [
            ByteRange(checkpoint_path(number, self.line), 0, size)
            for number, size in zip(numbers, sizes, strict=True)
            if size
        ]
        if len(ranges) == len(numbers):
            with suppress(NotFoundError, CorruptionError):
                found = zip(self._store.get_ranges(ranges), numbers, strict=True)
                return [self._checked_checkpoint(data, number, table_id) for data, number in found]
        return [self.checkpoint(number, table_id) for number in numbers]

    def _checked_checkpoint(self, data: bytes, number: int, table_id: str) -> Checkpoint | None:
        with suppress(CorruptionError, UnsupportedError):
            found = decode_checkpoint(data, f"{self._store.uri}/{checkpoint_path(number, self.line)}")
            if found.version == number and found.table_id == table_id:
                return found
        return None

    def put_checkpoint(self, checkpoint: Checkpoint) -> Checkpoint:
        """Store a checkpoint, in place of a damaged one if there is one; returns it with its size."""
        data = encode_checkpoint(checkpoint)
        self._store.put(checkpoint_path(checkpoint.version, self.line), data)
        return replace(checkpoint, size=len(data))

    def publish_hint(self, version: Version) -> None:
        """Point the hint at a landed version; failing to do so is harmless."""
        known = self._encoded
        same = known is not None and known[0] == version.commit_id
        try:
            self._store.put(hint_path(self.line), known[1] if known and same else encode_version(version))
        except StorageError:
            return

    def _settle(self, version: Version, cause: LakeError) -> bool:
        """Whether the object of that number is ours, by reading it back."""
        for attempt in range(_CLAIM_ATTEMPTS):
            try:
                found = self._look(version.version)
            except StorageError as error:
                cause = error
            else:
                if found is None:
                    break
                return found.commit_id == version.commit_id
            if attempt < _CLAIM_ATTEMPTS - 1:
                self._sleep(0.05 * 2**attempt)
        raise StateUnknownError(
            f"the store did not say whether commit {version.commit_id} landed as version {version.version}: "
            f"{cause.what}",
            fix="refresh() the table and look for that commit id in versions() before trying again",
        ) from cause

    def _newest_listed(self) -> Version:
        numbers = self.numbers()
        if not numbers:
            raise NotFoundError(
                f"there is no table at {self._store.uri}",
                fix="check the path, or make one with lake.create()",
            )
        return self.read(numbers[-1])
