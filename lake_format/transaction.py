"""One commit: apply a change to the newest version, claim the next number, rebase and try again if beaten.

A :class:`Change` says what it does as a function of whatever version it lands on, so that a rebase never rewrites
data files. Whether it may land after commits it has not seen is decided by the conflict matrix alone
(:mod:`lake_format.conflicts`, spec/identity.md).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from uuid import UUID, uuid4

import pyarrow as pa

from lake_format.conflicts import Action, decide_all
from lake_format.draft import Draft
from lake_format.errors import ConflictError
from lake_format.log import VersionLog
from lake_format.manifest_set import ManifestSet
from lake_format.model import IndexEntry, NewFragment, Version
from lake_format.operation_record import OperationRecord

__all__ = ["AddFragments", "AddIndex", "Change", "Surroundings", "commit", "first_version"]

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


class Change(Protocol):
    """Something to commit."""

    @property
    def record(self) -> OperationRecord:
        """What the change touches, as later committers will judge it."""
        ...

    @property
    def summary(self) -> Mapping[str, Any]:
        """Figures for the history: rows, fragments, bytes."""
        ...

    def apply(self, draft: Draft) -> None:
        """Make the change on a draft of the newest version; called once per attempt."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AddFragments:
    """Append rows that are already written to files."""

    record: OperationRecord
    summary: Mapping[str, Any]
    fragments: tuple[NewFragment, ...]
    features: frozenset[str] = frozenset()

    def apply(self, draft: Draft) -> None:
        """Add the fragments."""
        draft.add_fragments(self.fragments, self.features)


@dataclass(frozen=True, slots=True, kw_only=True)
class AddIndex:
    """Add an index whose shards are already written."""

    record: OperationRecord
    summary: Mapping[str, Any]
    entry: IndexEntry

    def apply(self, draft: Draft) -> None:
        """Put the index in place."""
        draft.put_index(self.entry)


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
    log: VersionLog, manifests: ManifestSet, base: Version, change: Change, around: Surroundings
) -> Version:
    """Land a change on top of the newest version.

    Parameters
    ----------
    base
        The version the change was prepared against.

    Returns
    -------
    Version
        The version that landed; durable, visible to every reader from now on.

    Raises
    ------
    ConflictError
        A commit made since ``base`` overlaps the change; nothing became visible.
    StateUnknownError
        The store gave no answer; see :meth:`VersionLog.claim`.
    """
    parent = base
    for attempt in range(_ATTEMPTS):
        draft = Draft(parent, manifests)
        change.apply(draft)
        candidate = _stamped(draft.settled(), parent, change, around)
        if log.claim(candidate):
            log.publish_hint(candidate)
            return candidate
        parent = _rebase(log, parent, change.record)
        around.sleep(around.chance() * min(0.001 * 2**attempt, 0.25))
    raise ConflictError(
        f"{_ATTEMPTS} other commits came first, one after another",
        fix="nothing was written; try again when the table is less busy, or with fewer, larger commits",
    )


def _stamped(version: Version, parent: Version, change: Change, around: Surroundings) -> Version:
    return replace(
        version,
        version=parent.version + 1,
        parent=parent.version,
        commit_id=str(around.new_id()),
        writer_id=around.writer_id,
        committed_at=max(around.microseconds(), parent.committed_at + 1),
        operations=(change.record.to_json(),),
        summary=dict(change.summary),
    )


def _rebase(log: VersionLog, parent: Version, record: OperationRecord) -> Version:
    """The newest version, once every commit between ``parent`` and it was found to go with ``record``."""
    newest = log.latest_from(log.read(parent.version + 1))
    for number in range(parent.version + 1, newest.version + 1):
        theirs = newest if number == newest.version else log.read(number)
        if theirs.table_id != parent.table_id:
            raise ConflictError("the table was dropped and made anew meanwhile", fix="open it again")
        check_compatible(record, theirs)
    return newest


def check_compatible(record: OperationRecord, theirs: Version) -> None:
    """ConflictError when ``record`` may not land after the commit that made ``theirs``."""
    decision = decide_all([record], [OperationRecord.from_json(raw) for raw in theirs.operations])
    if decision.action is not Action.COMMUTE:
        raise ConflictError(
            f"version {theirs.version} came first: {decision.text}", fix="refresh() and try again"
        )
