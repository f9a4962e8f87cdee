"""The history of a table in few requests: the version at a moment, all versions newest first, and its checkpoints.

Reads what versions and checkpoints remember of earlier versions, and version objects where that is missing or
damaged: then it costs more requests and finds the same (spec/identity.md, IDN-21; spec/versions.md, VER-2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from lake_format.checkpoint import (
    STRIDE,
    Checkpoint,
    Milestone,
    block_start,
    entry_of,
    is_whole,
    remembered,
    stride_start,
)
from lake_format.errors import LakeError, NotFoundError
from lake_format.log import ExpiredError, VersionLog
from lake_format.model import HistoryEntry, Version

__all__ = ["history_of", "version_at", "write_checkpoint"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOGETHER = 16
"""So many checkpoints are asked for at once."""
_MOST_REBUILT = 72
"""So many versions at most are read to write a checkpoint, where earlier ones are missing."""


# --- the version at a moment --------------------------------------------------------------------------------


def version_at(log: VersionLog, newest: Version, moment: int) -> Version:
    """The version that was current at a moment: the newest that was committed by then.

    At most three requests where checkpoints are there; else it bisects over version numbers, as times order
    like numbers do (COM-8).

    Parameters
    ----------
    newest
        The newest version.
    moment
        Microseconds since the epoch.

    Raises
    ------
    NotFoundError
        The table did not exist yet; :class:`ExpiredError` where what it was then has expired.
    """
    if newest.committed_at <= moment:
        return newest
    first = max(newest.horizon, 1)
    for remembered_times in (True, False):
        bounds = _Bounds(first - 1, newest.version, moment)
        if remembered_times:
            _narrow(bounds, log, newest)
        found = _bisected(log, bounds)
        if bounds.low < first:
            break
        found = found or log.read(bounds.low)
        if found.committed_at == bounds.low_time:
            return found
    shown = (_EPOCH + timedelta(microseconds=moment)).isoformat()
    if first > 1:
        raise ExpiredError(
            f"what the table was at {shown} has expired", fix=f"the oldest version kept is {first}"
        )
    raise NotFoundError(f"there was no table at {shown} yet", fix="versions() tells when it was made")


class _Bounds:
    """Two versions around a moment: ``low`` was committed by then (or stands for none), ``high`` was not."""

    def __init__(self, low: int, high: int, moment: int) -> None:
        self.low, self.high, self.moment = low, high, moment
        self.low_time = 0

    @property
    def met(self) -> bool:
        return self.high - self.low <= 1

    def learn(self, known: Iterable[HistoryEntry | Milestone | Version]) -> None:
        for one in known:
            if self.low < one.version < self.high:
                if one.committed_at <= self.moment:
                    self.low, self.low_time = one.version, one.committed_at
                else:
                    self.high = one.version


def _narrow(bounds: _Bounds, log: VersionLog, newest: Version) -> None:
    """Bring the bounds together by what is remembered of the versions between them."""
    bounds.learn(newest.history)
    last = stride_start(newest.version)
    if bounds.met or last <= bounds.low:
        return
    checkpoint = log.checkpoint(last, newest.table_id)
    if checkpoint is None and last > STRIDE:  # whoever made that version may be about to write it
        checkpoint = log.checkpoint(last - STRIDE, newest.table_id)
    if checkpoint is None:
        return
    bounds.learn((*checkpoint.milestones, *checkpoint.entries))
    if not bounds.met and any(one.version == bounds.high for one in checkpoint.milestones):
        milestone = log.checkpoint(bounds.high, newest.table_id)
        bounds.learn(milestone.entries if milestone else ())


def _bisected(log: VersionLog, bounds: _Bounds) -> Version | None:
    """Bring the bounds together by reading versions; the version at ``low`` if it was read."""
    found = None
    while not bounds.met:
        middle = log.read((bounds.low + bounds.high) // 2)
        bounds.learn([middle])
        if bounds.low == middle.version:
            found = middle
    return found


# --- all versions -------------------------------------------------------------------------------------------


def history_of(log: VersionLog, newest: Version, limit: int | None = None) -> Iterator[HistoryEntry]:
    """The versions up to ``newest`` that have not expired, newest first, all with details.

    One request for the newest checkpoint and one round for every sixteen earlier ones, each of 1,024 versions;
    in memory is a block at a time.
    """
    for entry in _Walk(log, newest, limit).entries():
        if entry.details is not None:
            yield entry
        elif (version := log.find(entry.version)) is not None:
            yield entry_of(version)


class _Walk:
    """Back through the history, from one remembered stretch of versions to the one before."""

    def __init__(self, log: VersionLog, newest: Version, limit: int | None) -> None:
        self._log = log
        self._newest = newest
        self._left = newest.version if limit is None else limit
        self._first = max(newest.horizon, 1)
        self._tagged = frozenset(newest.refs.values())
        self._sizes: dict[int, int] = {}

    def entries(self) -> Iterator[HistoryEntry]:
        """Entries of kept versions, newest first."""
        start = stride_start(self._newest.version)
        yield from self._taken(self._around_newest(start))
        stretches = list(self._stretches(start))
        yield from self._of(stretches[:1])  # the newest tells how large the others are
        for at in range(1, len(stretches), _TOGETHER):
            yield from self._of(stretches[at : at + _TOGETHER])

    def _of(self, stretch: Sequence[int]) -> Iterator[HistoryEntry]:
        needed = list(self._needed(stretch))
        if not needed:
            return
        sizes = [self._sizes.get(number) for number in needed]
        found = self._log.checkpoints(needed, sizes, self._newest.table_id)
        for number, checkpoint in zip(needed, found, strict=True):
            if checkpoint is None:
                yield from self._taken(self._rebuilt(block_start(number), number))
            else:
                self._learn(checkpoint)
                yield from self._taken(reversed(checkpoint.entries))

    def _stretches(self, last: int) -> Iterator[int]:
        """Checkpoints that together tell all kept versions up to ``last``, newest first."""
        oldest = min({self._first, *self._tagged})
        while last >= oldest:
            if any(self._is_kept(number) for number in range(block_start(last) + 1, last + 1)):
                yield last
            last = block_start(last)

    def _needed(self, stretch: Sequence[int]) -> Iterator[int]:
        """Those of the checkpoints that hold one of the versions still asked for."""
        left = self._left
        for number in stretch:
            if left <= 0:
                return
            yield number
            left -= sum(map(self._is_kept, range(block_start(number) + 1, number + 1)))

    def _around_newest(self, start: int) -> Iterator[HistoryEntry]:
        yield entry_of(self._newest)
        if is_whole(self._newest):
            yield from reversed(self._newest.history)
        else:
            yield from self._rebuilt(start, self._newest.version - 1)

    def _rebuilt(self, after: int, last: int) -> Iterator[HistoryEntry]:
        """The kept versions between two numbers, from version objects and the checkpoints between."""
        number = last
        while number > after:
            if not self._is_kept(number):
                number -= 1
                continue
            between = number != last and number % STRIDE == 0
            inner = self._log.checkpoint(number, self._newest.table_id) if between else None
            if inner is not None:
                self._learn(inner)
                yield from reversed(inner.entries)
                return
            version = self._log.find(number)
            if version is not None:
                yield entry_of(version)
                yield from reversed(version.history)
                number -= len(version.history)
            number -= 1

    def _learn(self, checkpoint: Checkpoint) -> None:
        self._sizes |= {one.version: one.size for one in checkpoint.milestones}

    def _taken(self, entries: Iterable[HistoryEntry]) -> Iterator[HistoryEntry]:
        for entry in entries:
            if self._left <= 0:
                return
            if self._is_kept(entry.version):
                self._left -= 1
                yield entry

    def _is_kept(self, number: int) -> bool:
        return number >= self._first or number in self._tagged


# --- writing checkpoints ------------------------------------------------------------------------------------


def write_checkpoint(log: VersionLog, version: Version) -> None:
    """Put the checkpoint that belongs to a version which has landed, if one does; failing to is harmless."""
    if version.version % STRIDE == 0:
        with suppress(LakeError):
            log.put_checkpoint(_built(log, version, _MOST_REBUILT))


def _built(log: VersionLog, version: Version, budget: int) -> Checkpoint:
    """The checkpoint of a version, with those before it where they are missing; NotFoundError past the budget."""
    if budget <= 0 or not is_whole(version):
        raise NotFoundError(f"what came before version {version.version} is not remembered")
    entries: tuple[HistoryEntry, ...] = (*version.history, remembered(version))
    milestones: tuple[Milestone, ...] = ()
    if (before := version.version - STRIDE) > 0:
        in_block = before > block_start(version.version)
        earlier = log.checkpoint(before, version.table_id)
        if earlier is None:
            earlier = _built(log, log.read(before), budget - 1)
            earlier = earlier if in_block else log.put_checkpoint(earlier)
        milestones = earlier.milestones
        if in_block:
            entries = (*earlier.entries, *entries)
        else:
            milestones = (*milestones, Milestone(before, earlier.entries[-1].committed_at, earlier.size))
    return Checkpoint(
        table_id=version.table_id, version=version.version, entries=entries, milestones=milestones
    )
