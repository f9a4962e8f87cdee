"""One commit: apply changes to the newest version, claim the next number, rebase and try again if beaten.

A :class:`Change` says what it does as a function of whatever version it lands on, naming rows by row id, so that
a rebase rewrites no data files. Whether it may land after commits it has not seen is decided by the conflict
matrix alone (:mod:`lake_format.conflicts`, spec/identity.md).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable
from uuid import UUID, uuid4

import pyarrow as pa

from lake_format.checkpoint import recent_of_next
from lake_format.conflicts import Action, Decision, decide_all
from lake_format.draft import Draft
from lake_format.errors import ConflictError
from lake_format.keys import decode_key_hashes
from lake_format.log import VersionLog
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot
from lake_format.store.base import Store
from lake_format.store.paths import check_path
from lake_format.timeline import write_checkpoint

__all__ = ["Change", "Idempotency", "Overtaken", "Surroundings", "YieldedError", "commit", "first_version"]

_ATTEMPTS = 200


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
class Overtaken(Protocol):
    """A change that must know what was committed between its base and where it lands."""

    def overtaken_by(self, theirs: Sequence[OperationRecord]) -> Change:
        """The change with the effect of those operations taken into account."""
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
) -> Version:
    """Land changes, all or none, on top of the newest version.

    Parameters
    ----------
    base
        The version the changes were prepared against.
    idempotency
        Commit only if this writer has not committed this number, or a later one, before.

    Returns
    -------
    Version
        The version that landed; durable, visible to every reader from now on. Where ``idempotency`` shows that
        the job committed before, the newest version.

    Raises
    ------
    ConflictError
        A commit made since ``base`` overlaps; nothing became visible. :class:`YieldedError` for upkeep.
    StateUnknownError
        The store gave no answer; see :meth:`VersionLog.claim`.
    """
    parent = base
    for attempt in range(_ATTEMPTS):
        if idempotency and parent.sequences.get(idempotency.writer, -1) >= idempotency.sequence:
            return parent
        draft = Draft(parent, manifests)
        records = [change.apply(draft) for change in changes]
        candidate = _stamped(draft.settled(), parent, changes, records, around, idempotency)
        if log.claim(candidate):
            log.publish_hint(candidate)
            write_checkpoint(log, candidate)
            return candidate
        newest = log.latest_from(parent)
        changes = _rebased(log, manifests, parent, newest, changes)
        parent = newest
        around.sleep(around.chance() * min(0.001 * 2**attempt, 0.25))
    raise ConflictError(
        f"{_ATTEMPTS} other commits came first, one after another",
        fix="nothing was written; try again when the table is less busy, or with fewer, larger commits",
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
        summary={name: value for change in changes for name, value in change.summary.items()},
        sequences=sequences,
        history=recent_of_next(parent),
    )


def _rebased(
    log: VersionLog, manifests: ManifestSet, parent: Version, newest: Version, changes: Sequence[Change]
) -> Sequence[Change]:
    """The changes made fit to follow every commit between ``parent`` and ``newest``."""
    if parent.version < newest.horizon and parent.table_id == newest.table_id:
        raise ConflictError(
            f"this was prepared on version {parent.version}, and the versions before {newest.horizon} have "
            "expired meanwhile: what was committed since cannot be told",
            fix="refresh() the table and do it again",
        )
    theirs: list[OperationRecord] = []
    for number in range(parent.version + 1, newest.version + 1):
        version = newest if number == newest.version else log.read(number)
        if version.table_id != parent.table_id:
            raise ConflictError("the table was dropped and made anew meanwhile", fix="open it again")
        theirs += [OperationRecord.from_json(raw) for raw in version.operations]
    if any(change.record.key_hashes for change in changes):
        theirs = [_with_key_hashes(manifests.store, record) for record in theirs]
    decision = decide_all(
        [change.record for change in changes],
        theirs,
        serializable=parent.properties.get("write.isolation") == "serializable",
    )
    if decision.action in (Action.COMMUTE, Action.REMAP):
        return [
            change.overtaken_by(theirs) if isinstance(change, Overtaken) else change for change in changes
        ]
    if decision.action is Action.REPLAN and len(changes) == 1:
        return [changes[0].replan(Snapshot(manifests.store, newest, manifests))]
    raise _refusal(decision)


def _with_key_hashes(store: Store, record: OperationRecord) -> OperationRecord:
    """The record with the key hashes that it keeps in an object of their own."""
    if not record.key_hashes_at:
        return record
    path = check_path(record.key_hashes_at)
    hashes = decode_key_hashes(store.get(path), path)
    return replace(record, key_hashes=hashes)


def _refusal(decision: Decision) -> ConflictError:
    kind = YieldedError if decision.action is Action.YIELD else ConflictError
    return kind(decision.text, fix="nothing was written; refresh() the table, look, and try again")
