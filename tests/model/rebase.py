"""Carries a plan over to another version and applies it there.

``apply`` is deliberately naive: it trusts that the plan's physical form fits the version it is given. ``remap``
makes it fit, through row ids alone and without evaluating a predicate. Which of the two happens is decided by the
matrix; a cell that says "commute" where "remap" is due loses data here, as it would in the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lake_format.operation_record import OperationRecord
from lake_format.row_runs import RowRuns

from .effects import (
    AlterColumn,
    Cluster,
    Compact,
    DeclareKey,
    DropColumn,
    Expire,
    RenameColumn,
    Restore,
    SetProperty,
    SetRef,
)  # fmt: skip
from .planning import Physical, Plan, place, record_fragments
from .state import Column, Fragment, Group, Index, Shard, Snapshot, ViolationError


def remap(plan: Plan, latest: Snapshot, theirs: Sequence[OperationRecord]) -> Plan:
    """The plan with the same effect, in the physical form that fits ``latest``."""
    if plan.column:
        plan = _renumber_column(plan, latest.next_field_id)
    if isinstance(plan.intent, Compact | Cluster):
        return replace(plan, rewritten=tuple(_mask_departed(f, plan, latest) for f in plan.rewritten))
    changes = {r: row for r, row in plan.changes.items() if r not in plan.deletes}
    physical = place(latest, plan.deletes, changes, plan.how, plan.whole)
    # The stored record tells of the form that was committed: others look for their fragments in it.
    plan = replace(plan, physical=physical, record=replace(plan.record, **record_fragments(physical)))
    if isinstance(plan.intent, DropColumn):
        gone = frozenset(i.name for i in latest.indexes.values() if i.field == plan.dropped)
        plan = replace(plan, index_drops=gone)
    if plan.index:
        shards = tuple(_overtaken(s, plan.index.field, theirs) for s in plan.index.shards)
        plan = replace(plan, index=replace(plan.index, shards=shards))
    # An index in neither version was dropped on the way: apply() passes over its shards.
    fields = {i.index_id: i.field for v in (plan.base, latest) for i in v.indexes.values()}
    marked = {
        i: (old, _overtaken(s, fields[i], theirs)) for i, (old, s) in plan.shards.items() if i in fields
    }
    return replace(plan, shards=marked)


def _overtaken(shard: Shard, field_id: int, theirs: Sequence[OperationRecord]) -> Shard:
    """A shard built at the base, with the rows that others have since given other values marked stale."""
    written = {r for t in theirs if field_id in t.fields_written for r in t.rows_updated}
    return replace(shard, stale=shard.stale | (written & set(shard.covered)))


def _mask_departed(fragment: Fragment, plan: Plan, latest: Snapshot) -> Fragment:
    """Compacted rows that left the sources meanwhile, deleted or moved, are dead in the new fragment."""
    assert isinstance(plan.intent, Compact | Cluster)
    stayed = {
        r for s in plan.intent.fragments if s in latest.fragments for _, r in latest.fragments[s].live()
    }
    return replace(fragment, deleted=frozenset(p for p, r in enumerate(fragment.row_ids) if r not in stayed))


def _renumber_column(plan: Plan, field_id: int) -> Plan:
    assert plan.column
    old, column = plan.column
    changes = {r: {field_id: row[old]} for r, row in plan.changes.items()}
    record = replace(
        plan.record,
        fields_written=frozenset({field_id}),
        fields_required=frozenset(field_id if f == old else f for f in plan.record.fields_required),
    )
    return replace(plan, column=(field_id, column), changes=changes, record=record)


def apply(
    plan: Plan, latest: Snapshot, restored: Snapshot | None = None, *, settled: bool = False
) -> Snapshot:
    """The version that follows ``latest`` when the plan is committed on it.

    ``settled`` keeps the plan's row ids as they are: for a branch's plan, whose rows got their ids there.
    """
    shift = 0 if settled else latest.next_row_id - plan.base.next_row_id
    fragments = _apply_physical(dict(latest.fragments), plan.physical)
    next_fragment = latest.next_fragment_id
    for new in (*plan.fresh, *plan.physical.moved, *plan.rewritten):
        ids = tuple(r + shift if new in plan.fresh else r for r in new.row_ids)
        fragments[next_fragment] = replace(new, fragment_id=next_fragment, row_ids=ids)
        next_fragment += 1
    result = replace(
        latest, number=latest.number + 1, fragments=fragments, records=(plan.record,),
        columns=_apply_columns(plan, latest), indexes=_apply_indexes(plan, latest, shift),
        next_fragment_id=next_fragment,
        next_row_id=latest.next_row_id + (0 if settled else plan.fresh_count),
        next_field_id=max(latest.next_field_id, plan.column[0] + 1 if plan.column else 0),
    )  # fmt: skip
    match plan.intent:
        case SetProperty(name, value):
            return replace(result, properties={**latest.properties, name: value})
        case DeclareKey():
            return replace(result, keyed=True)
        case SetRef(name, number):
            return replace(result, refs={**latest.refs, name: number})
        case Expire(horizon):
            return replace(result, horizon=horizon)
        case Restore():
            assert restored
            return replace(
                result, fragments=restored.fragments, columns=restored.columns, indexes=restored.indexes
            )
    return result


def _apply_physical(fragments: dict[int, Fragment], physical: Physical) -> dict[int, Fragment]:
    touched = {*physical.masks, *physical.groups, *physical.patches, *physical.removed}
    if not touched <= fragments.keys():
        raise ViolationError("the plan changes a fragment that is not there any more")
    for fragment_id, groups in physical.groups.items():
        fragments[fragment_id] = _replace_groups(fragments[fragment_id], groups)
    for fragment_id, patches in physical.patches.items():
        entry = fragments[fragment_id]
        fragments[fragment_id] = replace(entry, patches=(*entry.patches, *patches))
    for fragment_id, positions in physical.masks.items():
        entry = fragments[fragment_id]
        fragments[fragment_id] = replace(entry, deleted=entry.deleted | positions)
    for fragment_id in physical.removed:
        del fragments[fragment_id]
    return fragments


def _replace_groups(entry: Fragment, groups: list[Group]) -> Fragment:
    """New groups take over their columns; patches of those columns are part of them."""
    fields = {f for g in groups for f in g.columns}
    kept = [Group({f: v for f, v in g.columns.items() if f not in fields}) for g in entry.groups]
    patches = tuple(p for p in entry.patches if p.field not in fields)
    return replace(entry, groups=(*(g for g in kept if g.columns), *groups), patches=patches)


def _apply_columns(plan: Plan, latest: Snapshot) -> dict[int, Column]:
    columns = dict(latest.columns)
    if plan.column:
        columns[plan.column[0]] = plan.column[1]
    match plan.intent:
        case RenameColumn(field_id, name) if field_id in columns:
            columns[field_id] = replace(columns[field_id], name=name)
        case AlterColumn(field_id, required) if field_id in columns:
            columns[field_id] = replace(columns[field_id], required=required)
    columns.pop(plan.dropped, None)
    return columns


def _apply_indexes(plan: Plan, latest: Snapshot, shift: int) -> dict[str, Index]:
    indexes: dict[str, Index] = {}
    for name, index in latest.indexes.items():
        if name in plan.index_drops:
            continue
        shards = [
            replace(s, stale=s.stale | plan.physical.stale.get(s.shard_id, set())) for s in index.shards
        ]
        if index.index_id in plan.shards:
            old, new = plan.shards[index.index_id]
            shards = [s for s in shards if s.shard_id not in old] + [_shifted(plan, new, shift)]
        indexes[name] = replace(index, shards=tuple(shards))
    if plan.index:
        indexes[plan.index.name] = plan.index
    return indexes


def _shifted(plan: Plan, shard: Shard, shift: int) -> Shard:
    """The shard with final row ids. Its values stay where they are: a shift keeps every rank."""
    fresh = range(plan.base.next_row_id, plan.base.next_row_id + plan.fresh_count)
    return replace(shard, covered=RowRuns.from_ids(r + shift if r in fresh else r for r in shard.covered))


def settle(plan: Plan, latest: Snapshot) -> Plan:
    """The plan as it was committed after ``latest``, with final row ids: what a merge replays."""
    shift = latest.next_row_id - plan.base.next_row_id
    fresh = tuple(replace(f, row_ids=tuple(r + shift for r in f.row_ids)) for f in plan.fresh)
    shards = {i: (old, _shifted(plan, s, shift)) for i, (old, s) in plan.shards.items()}
    return replace(plan, fresh=fresh, shards=shards)
