"""Plans an intent against a base version: its record, its effect on rows, and its physical form.

A plan's new rows, fragments and columns carry provisional numbers that continue the base's counters; files know
none of them. ``physical`` turns effects into masks, groups, patches and moved rows on any given version, which is
all that a remap has to do again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from lake_format.operation_record import OperationRecord
from lake_format.row_runs import RowRuns

from .effects import (
    AddColumn,
    AlterColumn,
    Append,
    Backfill,
    Cluster,
    Compact,
    CreateIndex,
    DeclareKey,
    Delete,
    DropColumn,
    DropIndex,
    Effect,
    Expire,
    Intent,
    Merge,
    OptimizeIndex,
    Overwrite,
    RefusedError,
    RenameColumn,
    Restore,
    Set,
    SetProperty,
    SetRef,
    Update,
    Upsert,
    Where,
    effect,
)  # fmt: skip
from .state import KEY, VECTOR, Column, Fragment, Group, Index, Patch, Row, Rows, Shard, Snapshot, Value

_unique = count(1)  # stands for UUIDs: names of files and indexes

KINDS: dict[type, str] = {
    Append: "append", Delete: "delete", Update: "update", Upsert: "upsert", Merge: "merge", Overwrite: "overwrite",
    AddColumn: "add_column", DropColumn: "drop_column", RenameColumn: "rename_column", AlterColumn: "alter_column",
    Backfill: "backfill", CreateIndex: "create_index", DropIndex: "drop_index", OptimizeIndex: "optimize_index",
    Compact: "compact", Cluster: "cluster", Expire: "expire", Restore: "restore", SetProperty: "set_properties",
    DeclareKey: "set_properties", SetRef: "set_ref",
}  # fmt: skip


@dataclass(frozen=True)
class Physical:
    """Changes to existing fragments, by fragment id, and fragments of rows that move."""

    masks: dict[int, set[int]] = field(default_factory=dict)
    groups: dict[int, list[Group]] = field(default_factory=dict)
    patches: dict[int, list[Patch]] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    moved: list[Fragment] = field(default_factory=list)
    stale: dict[int, set[int]] = field(default_factory=dict)  # by shard id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An operation ready to be committed after ``base``, and after others if the matrix says so."""

    intent: Intent
    base: Snapshot
    record: OperationRecord
    deletes: frozenset[int] = frozenset()
    changes: Rows = field(default_factory=dict)
    physical: Physical = Physical()
    fresh: tuple[Fragment, ...] = ()  # new rows; row ids continue base.next_row_id
    rewritten: tuple[Fragment, ...] = ()  # compacted rows with their own ids
    column: tuple[int, Column] | None = None
    dropped: int | None = None
    index: Index | None = None
    index_drops: frozenset[str] = frozenset()
    shards: dict[int, tuple[frozenset[int], Shard]] = field(default_factory=dict)  # index id: (replaced, new)

    @property
    def fresh_count(self) -> int:
        return sum(len(f.row_ids) for f in self.fresh)

    @property
    def how(self) -> str:
        return getattr(self.intent, "how", "group")

    @property
    def whole(self) -> bool:
        return getattr(self.intent, "whole", False)


def plan(intent: Intent, base: Snapshot, readable: Mapping[int, Snapshot] | None = None) -> Plan:
    """Plan an intent. ``readable`` are the versions that still exist; RefusedError if not possible."""
    rows = base.rows()
    found = effect(intent, rows, base.columns, base.keyed)
    own = Plan(intent=intent, base=base, record=OperationRecord(kind=KINDS[type(intent)]))
    match intent:
        case CreateIndex() | DropIndex() | OptimizeIndex():
            return _plan_index(own, rows)
        case Compact(ids) | Cluster(ids):
            return _plan_compaction(own, [base.fragments[i] for i in ids if i in base.fragments])
        case Expire(horizon):
            if not base.horizon < horizon <= base.number:
                raise RefusedError("nothing to expire")
            return own
        case Restore(number) | SetRef(_, number):
            if number not in (readable or {}):
                raise RefusedError(f"version {number} is gone")
            if isinstance(intent, Restore) and base.keyed and not (readable or {})[number].keyed:
                raise RefusedError(f"version {number} was not held to the key")
            if isinstance(intent, SetRef):
                return replace(own, record=replace(own.record, claims=frozenset({f"ref:{intent.name}"})))
            return replace(own, record=replace(own.record, fields_written=frozenset({KEY, *base.columns})))
        case SetProperty(name):
            return replace(own, record=replace(own.record, claims=frozenset({f"property:{name}"})))
        case DeclareKey():
            rule, claims = frozenset({KEY}), frozenset({"property:key"})
            return replace(own, record=replace(own.record, fields_required=rule, claims=claims))
        case AddColumn() | DropColumn() | RenameColumn() | AlterColumn():
            return _plan_column(own, found)
        case _:
            return _plan_rows(own, found)


def _plan_rows(own: Plan, found: Effect) -> Plan:
    base, intent = own.base, own.intent
    fresh: tuple[Fragment, ...] = ()
    if found.inserts:
        ids = tuple(range(base.next_row_id, base.next_row_id + len(found.inserts)))
        fresh = (make_fragment(base.next_fragment_id, ids, found.inserts, base.columns),)
    physical = place(base, found.deletes, found.changes, own.how, own.whole)
    shards = {}
    if getattr(intent, "indexed", False):
        changed = {r: row for r, row in found.changes.items() if VECTOR in row}
        shards = _writer_shards(base, fresh, changed)
    written = frozenset(f for row in found.changes.values() for f in row)
    record = _rows_record(own, found, written, physical)
    return replace(
        own, record=record, fresh=fresh, physical=physical, shards=shards,
        deletes=frozenset(found.deletes), changes=found.changes,
    )  # fmt: skip


def _rows_record(own: Plan, found: Effect, written: frozenset[int], physical: Physical) -> OperationRecord:
    intent, keyed = own.intent, own.base.keyed
    keys: tuple[int, ...] | None = ()
    match intent:
        case Update(_, sets):  # told even where no row was hit: the column must stay what it was
            written |= {s.field for s in sets}
            keys = _keys(found.changes.values()) if keyed else ()
        case Backfill(value):
            written |= {value.field}
        case Upsert(cells) | Merge(cells):
            written |= {f for c in cells for f, _ in c} - {KEY}
            keys = _keys(dict(c) for c in cells) if keyed else None
        case Append() | Overwrite() if keyed:
            keys = _keys(found.inserts)
    return OperationRecord(
        kind=KINDS[type(intent)], fields_read=_fields_read(intent), fields_written=written,
        rows_added=len(found.inserts), rows_deleted=RowRuns.from_ids(found.deletes),
        rows_updated=RowRuns.from_ids(found.changes), key_hashes=keys,
        **record_fragments(physical),
    )  # fmt: skip


def _fields_read(intent: Intent) -> frozenset[int]:
    match intent:
        case Delete(Where(field_id)) | Overwrite(Where(field_id)):
            return frozenset() if field_id is None else frozenset({field_id})
        case Update(Where(field_id), sets):
            return frozenset({field_id, *(s.source for s in sets)}) - {None}
        case Backfill(Set(field_id, _, source)):
            return frozenset({field_id, source}) - {None}
        case Upsert() | Merge():
            return frozenset({KEY})
        case AddColumn(_, Set(_, _, int() as source)):
            return frozenset({source})
        case _:
            return frozenset()


def record_fragments(physical: Physical) -> dict[str, frozenset[int]]:
    """The parts of a record that tell which fragments a physical form touches."""
    return {
        "fragments_masked": frozenset(physical.masks),
        "fragments_rewritten": frozenset({*physical.groups, *physical.patches}),
        "fragments_removed": frozenset(physical.removed),
    }


def _keys(rows: Iterable[Row]) -> tuple[int, ...]:
    """Key hashes: the model's keys are small numbers and hash to themselves."""
    return tuple(sorted({key for row in rows if (key := row.get(KEY)) is not None}))


def make_fragment(
    fragment_id: int, ids: tuple[int, ...], rows: Iterable[Row], columns: Iterable[int]
) -> Fragment:
    """A fragment of whole rows in two groups: vectors alone, everything else together."""
    rows = list(rows)
    split = [[f for f in columns if f != VECTOR], [f for f in columns if f == VECTOR]]
    groups = [Group({f: tuple(row.get(f) for row in rows) for f in fields}) for fields in split if fields]
    return Fragment(fragment_id, ids, tuple(groups))


def place(base: Snapshot, deletes: Iterable[int], changes: Rows, how: str, whole: bool) -> Physical:
    """Carry out row changes on the fragments of a version; row ids that are not live there are passed over."""
    places = base.places()
    result = Physical()
    by_fragment: dict[int, dict[int, Row]] = defaultdict(dict)
    for row_id in places.keys() & changes.keys():
        fragment_id, position = places[row_id]
        by_fragment[fragment_id][position] = changes[row_id]
    for fragment_id, cells in by_fragment.items():
        _change(base, base.fragments[fragment_id], cells, how, result)
    for row_id in places.keys() & set(deletes):
        result.masks.setdefault(places[row_id][0], set()).add(places[row_id][1])
    for fragment_id in [*result.masks]:
        emptied = {p for p, _ in base.fragments[fragment_id].live()} == result.masks[fragment_id]
        if emptied and (whole or how == "move"):
            result.removed.add(fragment_id)
            del result.masks[fragment_id]
    _mark_stale(base, changes, result)
    return result


def _change(base: Snapshot, fragment: Fragment, cells: dict[int, Row], how: str, result: Physical) -> None:
    fields = sorted({f for row in cells.values() for f in row})
    if how == "move":
        rows = [{f: fragment.value(p, f) for f in base.columns} | cells[p] for p in sorted(cells)]
        ids = tuple(fragment.row_ids[p] for p in sorted(cells))
        result.moved.append(make_fragment(-1, ids, rows, base.columns))
        result.masks.setdefault(fragment.fragment_id, set()).update(cells)
    elif how == "patch":
        result.patches[fragment.fragment_id] = [
            Patch(f, {p: row[f] for p, row in cells.items() if f in row}) for f in fields
        ]
    else:
        held = [tuple(g.columns) for g in fragment.groups if not g.columns.keys().isdisjoint(fields)]
        new = [(f,) for f in fields if not any(f in group for group in held)]
        result.groups[fragment.fragment_id] = [_new_group(fragment, group, cells) for group in held + new]


def _new_group(fragment: Fragment, fields: tuple[int, ...], cells: dict[int, Row]) -> Group:
    def value(position: int, field_id: int) -> Value:
        row = cells.get(position, {})
        return row[field_id] if field_id in row else fragment.value(position, field_id)

    return Group({f: tuple(value(p, f) for p in range(len(fragment.row_ids))) for f in fields})


def _mark_stale(base: Snapshot, changes: Rows, result: Physical) -> None:
    for index in base.indexes.values():
        written = {row_id for row_id, row in changes.items() if index.field in row}
        for shard in index.shards:
            if hit := written & set(shard.covered):
                result.stale[shard.shard_id] = hit


def _writer_shards(
    base: Snapshot, fresh: tuple[Fragment, ...], changed: Rows
) -> dict[int, tuple[frozenset[int], Shard]]:
    """A shard over the vectors a writer brings, numbered by rank among provisional row ids."""
    values = {row_id: row[VECTOR] for row_id, row in changed.items()}
    values |= {r: f.value(p, VECTOR) for f in fresh for p, r in enumerate(f.row_ids)}
    shard = make_shard(values)
    return {i.index_id: (frozenset(), shard) for i in base.indexes.values() if i.field == VECTOR and values}


def make_shard(values: dict[int, Value]) -> Shard:
    """Build an index shard: row ids only say the rank of each value."""
    return Shard(next(_unique), RowRuns.from_ids(values), tuple(values[r] for r in sorted(values)))


def _plan_column(own: Plan, found: Effect) -> Plan:
    base = own.base
    if found.dropped is not None:
        gone = frozenset(i.name for i in base.indexes.values() if i.field == found.dropped)
        record = replace(own.record, fields_written=frozenset({found.dropped}))
        return replace(own, record=record, dropped=found.dropped, index_drops=gone)
    if found.added:
        field_id = base.next_field_id
        changes: Rows = {r: {field_id: value} for r, value in found.filled.items()}
        physical = place(base, (), changes, "group", False)
        record = replace(
            own.record, fields_read=_fields_read(own.intent), rows_updated=RowRuns.from_ids(changes),
            fields_written=frozenset({field_id}),
            fields_required=_rule_fields(field_id, found.added),
            claims=frozenset({f"column:{found.added.name}"}), **record_fragments(physical),
        )  # fmt: skip
        return replace(own, record=record, changes=changes, physical=physical, column=(field_id, found.added))
    ((field_id, column),) = found.columns.items()
    required = column.required and isinstance(own.intent, AlterColumn)
    claims = {f"column:{column.name}"} if isinstance(own.intent, RenameColumn) else set()
    record = replace(
        own.record, fields_written=frozenset({field_id}), claims=frozenset(claims),
        fields_required=frozenset({field_id}) if required else frozenset(),
    )  # fmt: skip
    return replace(own, record=record)


def _rule_fields(field_id: int, column: Column) -> frozenset[int]:
    if column.computed:
        return frozenset({field_id, column.computed[0]})
    return frozenset({field_id}) if column.required else frozenset()


def _plan_index(own: Plan, rows: Rows) -> Plan:
    base, intent = own.base, own.intent
    assert isinstance(intent, CreateIndex | DropIndex | OptimizeIndex)
    there = base.indexes.get(intent.name)
    record = replace(own.record, claims=frozenset({f"index:{intent.name}"}))
    if isinstance(intent, CreateIndex):
        if there or intent.field not in base.columns:
            raise RefusedError("the name is taken or the column is not there")
        shard = make_shard({r: row[intent.field] for r, row in rows.items()})
        record = replace(record, fields_read=frozenset({intent.field}))
        return replace(own, record=record, index=Index(next(_unique), intent.name, intent.field, (shard,)))
    if there is None:
        raise RefusedError("there is no such index")
    if isinstance(intent, DropIndex):
        return replace(own, record=record, index_drops=frozenset({intent.name}))
    # Merge all shards and cover what none answers for; dead rows are dropped on the way.
    shard = make_shard({r: row[there.field] for r, row in rows.items()})
    record = replace(record, fields_read=frozenset({there.field}))
    return replace(
        own, record=record, shards={there.index_id: (frozenset(s.shard_id for s in there.shards), shard)}
    )


def _plan_compaction(own: Plan, sources: list[Fragment]) -> Plan:
    base, intent = own.base, own.intent
    rows = [(r, {f: s.value(p, f) for f in base.columns}) for s in sources for p, r in s.live()]
    if not sources:
        raise RefusedError("nothing to compact")
    if isinstance(intent, Cluster):
        rows.sort(key=lambda item: (item[1].get(intent.by) or 0, item[0]), reverse=True)
    ids = tuple(r for r, _ in rows)
    rewritten = (make_fragment(-1, ids, (row for _, row in rows), base.columns),) if ids else ()
    removed = frozenset(s.fragment_id for s in sources)
    return replace(
        own, rewritten=rewritten, record=replace(own.record, fragments_removed=removed),
        physical=Physical(removed=set(removed)),
    )  # fmt: skip
