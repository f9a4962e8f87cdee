"""One commit: apply changes to the newest version, claim the next number, rebase and try again if beaten.

A :class:`Change` says what it does as a function of whatever version it lands on, naming rows by row id, so that
a rebase rewrites no data files. Whether it may land after commits it has not seen is decided by the conflict
matrix alone (:mod:`lake_format.conflicts`, spec/identity.md).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable
from uuid import UUID, uuid4

import pyarrow as pa

from lake_format.checkpoint import recent_of_next
from lake_format.conflicts import Action, Decision, decide_all
from lake_format.draft import Draft
from lake_format.errors import ConflictError, InvalidInputError, MissingObjectError, NotWrittenError
from lake_format.keys import decode_key_hashes
from lake_format.log import VersionLog, made_anew
from lake_format.manifest_set import ManifestSet, Spilled
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot
from lake_format.store.base import Store
from lake_format.store.paths import check_path
from lake_format.timeline import write_checkpoint

__all__ = ["Change", "Idempotency", "Overtaken", "Surroundings", "YieldedError", "commit", "first_version"]
__all__ += ["REFUSALS", "Discards", "TakesOver", "with_key_hashes"]

_ATTEMPTS = 200
REFUSALS = (ConflictError, InvalidInputError, NotWrittenError)
"""Where a commit ends in one of these it is certain that nothing landed: what was written for it can go."""
_SHORTEST_WAIT, _LONGEST_WAIT = 0.001, 0.25  # seconds
_PATIENCE = 8  # attempts until waits grow shorter again


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a commit takes from outside the table, so that tests can own it: clock, ids, chance, waiting."""

    now: Callable[[], float] = time.time
    new_id: Callable[[], UUID] = uuid4
    chance: Callable[[], float] = random.random
    sleep: Callable[[float], None] = time.sleep
    writer_id: str = field(default_factory=lambda: str(uuid4()))

    def microseconds(self) -> int:
        """The clock, in whole microseconds since the epoch."""
        return int(self.now() * 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """Marks a commit of a job so that a retry of it commits nothing: a writer's numbers only grow."""

    writer: str
    sequence: int


class YieldedError(ConflictError):
    """Upkeep met users' work and gave way; whoever runs upkeep catches this."""

    code = "yielded"


class Change(Protocol):
    """Something to commit."""

    @property
    def record(self) -> OperationRecord:
        """What the change was planned to touch: judged against commits it has not seen."""
        ...

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures for the history: rows, fragments, bytes."""
        ...

    def apply(self, draft: Draft) -> OperationRecord:
        """Make the change on a draft of the newest version, once per attempt.

        Rows are found by row id, so that the change fits whatever compaction did meanwhile. Returns the record
        of what was touched in the end, which later committers will judge.
        """
        ...

    def replan(self, latest: Snapshot) -> Change:
        """The change computed anew, from its own input, on a later snapshot."""
        ...


@runtime_checkable
class Discards(Protocol):
    """A change that can remove what was written for it, once it is certain that it did not land."""

    def discard(self) -> None:
        """Remove it; what cannot be removed now is garbage that no version names."""
        ...


@runtime_checkable
class Overtaken(Protocol):
    """A change that must know what was committed between its base and where it lands."""

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Change:
        """The change with the effect of those operations taken into account."""
        ...


@runtime_checkable
class TakesOver(Protocol):
    """A change that brings operations of another line: all are judged, and stored, as if they were made here."""

    @property
    def others(self) -> Sequence[OperationRecord]:
        """Those after the first, which is its record."""
        ...


@runtime_checkable
class Lasting(Protocol):
    """A change that stays as it is when others of its transaction are planned anew, unless it must be itself."""

    @property
    def lasting(self) -> bool:
        """Whether it does now."""
        ...


@runtime_checkable
class NamesFields(Protocol):
    """A change that knows columns by their ids alone, wherever it is planned."""

    @property
    def names_fields(self) -> frozenset[int]:
        """The ids."""
        ...


def first_version(
    schema: pa.Schema,
    next_field_id: int,
    properties: Mapping[str, str],
    record: OperationRecord,
    around: Surroundings,
) -> Version:
    """Version 1 of a new, empty table."""
    return Version(
        table_id=str(around.new_id()),
        version=1,
        parent=None,
        commit_id=str(around.new_id()),
        committed_at=around.microseconds(),
        writer_id=around.writer_id,
        operations=(record.to_json(),),
        summary={"columns": len(schema)},
        schema_id=0,
        schemas={0: schema},
        next_field_id=next_field_id,
        next_row_id=0,
        next_fragment_id=0,
        row_count=0,
        properties=dict(properties),
    )


def commit(
    log: VersionLog,
    manifests: ManifestSet,
    base: Version,
    changes: Sequence[Change],
    around: Surroundings,
    idempotency: Idempotency | None = None,
    *,
    serializable: bool | None = None,
) -> Version:
    """Land changes, all or none, on top of the newest version.

    Parameters
    ----------
    base
        The version the changes were prepared against: the first on it, each other on what those before it made.
    idempotency
        Commit only if this writer has not committed this number, or a later one, before.
    serializable
        The isolation to judge by; None is the table's ``write.isolation``.

    Returns
    -------
    Version
        The version that landed; durable, visible to every reader from now on. Where ``idempotency`` shows that
        the job committed before, the newest version.

    Raises
    ------
    ConflictError
        A commit made since ``base`` overlaps; nothing became visible. :class:`YieldedError` for upkeep.
    NotFoundError
        The table was removed since ``base`` was read.
    NotWrittenError
        The store refused the commit; nothing became visible.
    StateUnknownError
        The store gave no answer; see :meth:`VersionLog.claim`.
    """
    spilled: Spilled = {}
    try:
        landed = _landed(log, manifests, base, changes, around, idempotency, serializable, spilled)
    except (ConflictError, NotWrittenError):
        manifests.remove_unused(spilled, None)
        raise
    manifests.remove_unused(spilled, landed)
    return landed


def _landed(
    log: VersionLog,
    manifests: ManifestSet,
    base: Version,
    changes: Sequence[Change],
    around: Surroundings,
    idempotency: Idempotency | None,
    serializable: bool | None,
    spilled: Spilled,
) -> Version:
    """The version that landed, after as many attempts as it takes; ``spilled`` gathers manifests they wrote."""
    parent, planned = base, list(changes)
    log.require(base)
    for attempt in range(_ATTEMPTS):
        if idempotency and parent.sequences.get(idempotency.writer, -1) >= idempotency.sequence:
            return parent
        try:
            draft = Draft(parent, manifests)
            records = [record for change in planned for record in (change.apply(draft), *_others(change))]
            candidate = _stamped(draft.settled(spilled), parent, planned, records, around, idempotency)
        except MissingObjectError:  # a file that a change reads: it may have expired and be gone
            _check_unexpired(base, log.latest_from(parent))
            raise
        if log.claim(candidate):
            log.publish_hint(candidate)
            write_checkpoint(log, candidate)
            return candidate
        around.sleep(around.chance() * _longest_wait(attempt))
        newest = log.latest_from(parent)  # after the wait: what it shows is to be as fresh as can be
        _check_unexpired(base, newest)
        try:
            theirs = _committed_between(log, manifests.store, parent, newest, planned)
            planned = _rebased(manifests, (parent, newest), planned, theirs, serializable)
        except MissingObjectError:
            _check_unexpired(base, log.latest_from(newest))
            raise
        parent = newest
    raise ConflictError(
        f"{_ATTEMPTS} other commits came first, one after another",
        fix="nothing was written; try again when the table is less busy, or with fewer, larger commits",
    )


def _longest_wait(attempt: int) -> float:
    """How long to stand back after an attempt that came too late, in seconds.

    Longer each time, so that rivals spread out; but whoever stood back often waits ever less, or those who have just
    come would always be first.
    """
    return min(_SHORTEST_WAIT * 2.0 ** min(attempt, _PATIENCE), _LONGEST_WAIT) * 0.8 ** max(
        attempt - _PATIENCE, 0
    )


def _stamped(
    version: Version,
    parent: Version,
    changes: Sequence[Change],
    records: Sequence[OperationRecord],
    around: Surroundings,
    idempotency: Idempotency | None,
) -> Version:
    sequences = dict(parent.sequences)
    if idempotency:
        sequences[idempotency.writer] = idempotency.sequence
    return replace(
        version,
        version=parent.version + 1,
        parent=parent.version,
        commit_id=str(around.new_id()),
        writer_id=around.writer_id,
        committed_at=max(around.microseconds(), parent.committed_at + 1),
        operations=tuple(record.to_json() for record in records),
        summary=_added(change.summary for change in changes),
        sequences=sequences,
        history=recent_of_next(parent),
    )


def _added(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all changes: numbers add up, of anything else the last counts."""
    total: dict[str, Any] = {}
    for summary in summaries:
        for name, value in summary.items():
            both = isinstance(value, int) and isinstance(total.get(name), int)
            total[name] = total[name] + value if both else value
    return total


def _check_unexpired(base: Version, newest: Version) -> None:
    """Refuse what was prepared on an expired version, however often it was rebased since.

    Its files may be gone: a collector spares what is younger than the version at the horizon (UPK-4, UPK-6).
    """
    if base.version < newest.horizon and base.table_id == newest.table_id:
        raise ConflictError(
            f"this was prepared on version {base.version}, and the versions before {newest.horizon} have "
            "expired meanwhile: what was committed since cannot be told",
            fix="refresh() the table and do it again",
        )


def _committed_between(
    log: VersionLog, store: Store, parent: Version, newest: Version, changes: Sequence[Change]
) -> list[OperationRecord]:
    """What was committed after ``parent`` up to ``newest``, with keys where one of the changes has any."""
    theirs: list[OperationRecord] = []
    for number in range(parent.version + 1, newest.version + 1):
        version = newest if number == newest.version else log.read(number)
        if version.table_id != parent.table_id:
            raise made_anew()
        if version.is_end:
            raise ConflictError(
                f"the branch {version.origin and version.origin.name!r} was deleted meanwhile",
                fix="nothing was written; open another branch, or make this one anew",
            )
        theirs += [OperationRecord.from_json(raw) for raw in version.operations]
    if any(record.key_hashes for change in changes for record in (change.record, *_others(change))):
        theirs = [with_key_hashes(store, record) for record in theirs]
    return theirs


def _others(change: Change) -> Sequence[OperationRecord]:
    return change.others if isinstance(change, TakesOver) else ()


def _rebased(
    manifests: ManifestSet,
    versions: tuple[Version, Version],
    changes: Sequence[Change],
    theirs: Sequence[OperationRecord],
    serializable: bool | None,
) -> list[Change]:
    """The changes made fit to follow every commit between two versions.

    If one of several has to be planned anew, or builds on what another of them made, all are, in their order, each on
    what those before it made of the newest version.
    """
    parent, newest = versions
    if serializable is None:
        serializable = parent.properties.get("write.isolation") == "serializable"
    several = len(changes) > 1
    seen = [change.record.before(parent) if several else change.record for change in changes]
    decisions = [
        decide_all([record, *_others(change)], theirs, serializable=serializable)
        for record, change in zip(seen, changes, strict=True)
    ]
    worst = max(decisions, key=lambda decision: decision.action.strength)
    if worst.action in (Action.YIELD, Action.CONFLICT):
        raise _refusal(worst)
    independent = all(record == change.record for record, change in zip(seen, changes, strict=True))
    if worst.action is not Action.REPLAN and independent:
        return [_overtaken(change, theirs) for change in changes]
    draft = Draft(newest, manifests)
    moved = newest.next_field_id != parent.next_field_id
    planned: list[Change] = []
    for change, decision in zip(changes, decisions, strict=True):
        stays = decision.action is not Action.REPLAN and isinstance(change, Lasting)
        named = change.names_fields if isinstance(change, NamesFields) else frozenset()
        if moved and any(field_id >= parent.next_field_id for field_id in named):
            raise ConflictError(
                "others added columns while this transaction did, so that its columns have other numbers now",
                fix="nothing was written; do the transaction again",
            )
        planned.append(_overtaken(change, theirs) if stays else change.replan(draft.snapshot))
        planned[-1].apply(draft)
    return planned


def _overtaken(change: Change, theirs: Sequence[OperationRecord]) -> Change:
    return change.overtaken_by(theirs) if isinstance(change, Overtaken) else change


def with_key_hashes(store: Store, record: OperationRecord) -> OperationRecord:
    """The record with the key hashes that it keeps in an object of their own."""
    if not record.key_hashes_at:
        return record
    path = check_path(record.key_hashes_at)
    hashes = decode_key_hashes(store.get(path), path)
    return replace(record, key_hashes=hashes)


def _refusal(decision: Decision) -> ConflictError:
    kind = YieldedError if decision.action is Action.YIELD else ConflictError
    return kind(decision.text, fix="nothing was written; refresh() the table, look, and try again")
