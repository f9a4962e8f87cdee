"""The truth a table is compared with: plain rows in a dict, operations run one after the other.

Snapshot isolation differs from a serial run in one thing only: an operation touches no row that its predicate did
not select in its base version. Everything else must come out as if it ran now, on the latest rows; in particular
a selected row must still satisfy the predicate, and an expression sees the row's latest values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .effects import (
    AddColumn,
    Backfill,
    DeclareKey,
    Delete,
    Effect,
    Intent,
    RefusedError,
    Restore,
    Update,
    effect,
)
from .state import LINE_STRIDE, Column, Rows, ViolationError

ROWS_BY_PREDICATE = (Delete, Update, AddColumn, Backfill)


@dataclass(frozen=True)
class Truth:
    """Rows and columns of one version of one line, and the effects that led to it."""

    rows: Rows
    columns: Mapping[int, Column]
    keyed: bool
    next_row_id: int
    next_field_id: int
    effects: tuple[tuple[Effect, tuple[int, ...], int | None], ...] = field(default=())


def execute(
    intent: Intent, base: Truth, latest: Truth, *, serializable: bool, restored: Truth | None
) -> Truth:
    """The truth after an acknowledged commit. ViolationError if it should not have been acknowledged."""
    if isinstance(intent, Restore):
        assert restored
        return replace(latest, rows=restored.rows, columns=restored.columns, effects=())
    # A column dropped meanwhile is gone from the rows, but the predicate may still look at it.
    rows = {r: {**base.rows.get(r, {}), **row} for r, row in latest.rows.items()}
    by_predicate = isinstance(intent, ROWS_BY_PREDICATE) and not serializable
    try:
        chosen = effect(intent, base.rows, base.columns, base.keyed).touched()
        found = effect(intent, rows, latest.columns, latest.keyed, only=chosen if by_predicate else None)
    except RefusedError as error:
        raise ViolationError(f"{intent} was committed, but it is refused: {error}") from error
    if by_predicate and (lost := (chosen & rows.keys()) - found.touched()):
        raise ViolationError(f"{intent} touched rows {lost}, which it would not select now")
    ids = tuple(range(latest.next_row_id, latest.next_row_id + len(found.inserts)))
    field_id = latest.next_field_id if found.added else None
    return replace(
        apply_effect(found, ids, field_id, latest),
        next_row_id=latest.next_row_id + len(ids),
        next_field_id=latest.next_field_id + (1 if found.added else 0),
        effects=((found, ids, field_id),),
        keyed=latest.keyed or isinstance(intent, DeclareKey),
    )


def apply_effect(found: Effect, ids: tuple[int, ...], field_id: int | None, truth: Truth) -> Truth:
    """Apply an effect to rows that may have changed since it was found; rows that are gone stay gone."""
    columns = {**truth.columns, **{f: c for f, c in found.columns.items() if f in truth.columns}}
    if found.added and field_id is not None:
        columns[field_id] = found.added
    columns.pop(found.dropped or 0, None)
    rows = {r: dict(row) for r, row in truth.rows.items() if r not in found.deletes}
    for row_id in found.changes.keys() & rows.keys():
        rows[row_id] |= found.changes[row_id]
    if field_id is not None:
        for row_id, row in rows.items():
            row[field_id] = found.filled.get(row_id)
    rows |= dict(zip(ids, found.inserts, strict=True))
    rows = {r: {f: row.get(f) for f in columns} for r, row in rows.items()}
    return replace(truth, rows=rows, columns=columns)


def fork(truth: Truth, line: int) -> Truth:
    """The truth of a new branch: the same rows; its own row ids."""
    return replace(truth, next_row_id=line * LINE_STRIDE, effects=())


def merge(branch: list[Truth], target: Truth) -> Truth:
    """Replay what was done on a branch on the target's rows."""
    effects = tuple(step for truth in branch for step in truth.effects)
    for found, ids, field_id in effects:
        target = apply_effect(found, ids, field_id, target)
        if field_id is not None:
            target = replace(target, next_field_id=max(target.next_field_id, field_id + 1))
    return replace(target, effects=effects)
