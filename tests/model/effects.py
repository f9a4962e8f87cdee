"""What operations mean: an intent applied to plain rows gives an effect. Neither files nor other writers exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .state import KEY, Column, Row, Rows, Value

Cells = tuple[tuple[int, Value], ...]  # a row as a hashable value: (field id, value) pairs


class RefusedError(Exception):
    """The operation is not possible on these rows: a typed error for the user, nothing committed."""


@dataclass(frozen=True)
class Where:
    """``field == value`` (None matches NULL), or every row when ``field`` is None."""

    field: int | None = None
    value: Value = None

    def __call__(self, row: Row) -> bool:
        return self.field is None or row.get(self.field) == self.value


@dataclass(frozen=True)
class Set:
    """``field = constant``, or ``field = source + constant``."""

    field: int
    constant: Value
    source: int | None = None

    def __call__(self, row: Row) -> Value:
        if self.source is None:
            return self.constant
        return (row.get(self.source) or 0) + (self.constant or 0)


@dataclass(frozen=True)
class Append:
    rows: tuple[Cells, ...]
    indexed: bool = False  # the writer brings an index shard for its rows


@dataclass(frozen=True)
class Delete:
    where: Where
    whole: bool = False  # a fragment with no row left is removed, not masked


@dataclass(frozen=True)
class Update:
    where: Where
    sets: tuple[Set, ...]
    how: str = "patch"  # patch | group | move


@dataclass(frozen=True)
class Upsert:
    rows: tuple[Cells, ...]
    how: str = "move"
    indexed: bool = False


@dataclass(frozen=True)
class Merge:
    rows: tuple[Cells, ...]
    delete_unmatched: bool = False
    how: str = "move"


@dataclass(frozen=True)
class Overwrite:
    where: Where
    rows: tuple[Cells, ...]
    whole: bool = False


@dataclass(frozen=True)
class AddColumn:
    name: str
    value: Set | None = None  # its field is not used
    required: bool = False
    computed: bool = False  # the expression stays with the column and holds for rows to come


@dataclass(frozen=True)
class DropColumn:
    field: int


@dataclass(frozen=True)
class RenameColumn:
    field: int
    name: str


@dataclass(frozen=True)
class AlterColumn:
    field: int
    required: bool


@dataclass(frozen=True)
class Backfill:
    """Give ``value`` to rows that have NULL in ``value.field``, or to every row."""

    value: Set
    how: str = "group"
    every: bool = False


@dataclass(frozen=True)
class CreateIndex:
    name: str
    field: int


@dataclass(frozen=True)
class DropIndex:
    name: str


@dataclass(frozen=True)
class OptimizeIndex:
    name: str


@dataclass(frozen=True)
class Compact:
    fragments: tuple[int, ...]


@dataclass(frozen=True)
class Cluster:
    fragments: tuple[int, ...]
    by: int


@dataclass(frozen=True)
class Expire:
    horizon: int


@dataclass(frozen=True)
class Restore:
    number: int


@dataclass(frozen=True)
class SetProperty:
    name: str
    value: int


@dataclass(frozen=True)
class DeclareKey:
    """Make the table keyed: a property with a rule for every row."""


@dataclass(frozen=True)
class SetRef:
    name: str
    number: int


Intent = (
    Append | Delete | Update | Upsert | Merge | Overwrite | AddColumn | DropColumn | RenameColumn | AlterColumn
    | Backfill | CreateIndex | DropIndex | OptimizeIndex | Compact | Cluster | Expire | Restore | SetProperty
    | DeclareKey | SetRef
)  # fmt: skip


@dataclass
class Effect:
    """What an operation does to plain rows and columns."""

    inserts: list[Row] = field(default_factory=list)
    deletes: set[int] = field(default_factory=set)
    changes: dict[int, Row] = field(default_factory=dict)
    added: Column | None = None  # its values stand in ``filled`` until it has a field id
    filled: dict[int, Value] = field(default_factory=dict)
    dropped: int | None = None
    columns: dict[int, Column] = field(default_factory=dict)  # renamed or altered

    def touched(self) -> set[int]:
        return self.deletes | set(self.changes) | set(self.filled)


def effect(
    intent: Intent, rows: Rows, columns: Mapping[int, Column], keyed: bool, only: set[int] | None = None
) -> Effect:
    """The effect of an intent run alone on these rows; RefusedError where it is not possible.

    ``only`` are the rows it may touch: those it had selected before.
    """
    found = _effect(intent, rows, columns)
    if only is not None:
        found.deletes &= only
        found.changes = {r: row for r, row in found.changes.items() if r in only}
        found.filled = {r: value for r, value in found.filled.items() if r in only}
    for field_id, column in columns.items():
        if column.computed:
            _compute(found, rows, field_id, column.computed)
    keys_matter = isinstance(intent, DeclareKey) or (
        keyed and (bool(found.inserts) or any(KEY in row for row in found.changes.values()))
    )
    _refuse_bad(found, rows, columns)
    if keyed and found.dropped == KEY:
        raise RefusedError("the key column cannot be dropped")
    if keys_matter:
        _refuse_bad_keys(found, rows)
    return found


def _compute(found: Effect, rows: Rows, field_id: int, rule: tuple[int, int]) -> None:
    """Give a computed column its values wherever an operation brings or changes what it is made of."""
    source, constant = rule
    if found.dropped == source or any(field_id in row for row in found.changes.values()):
        raise RefusedError(f"column {field_id} is computed from {source}")
    for row in found.inserts:
        row[field_id] = (row[source] or 0) + constant
    for row_id, row in found.changes.items():
        if source in row:
            row[field_id] = ({**rows[row_id], **row}[source] or 0) + constant


def _effect(intent: Intent, rows: Rows, columns: Mapping[int, Column]) -> Effect:
    match intent:
        case Append(cells):
            return Effect(inserts=[_row(c, columns) for c in cells])
        case Delete(where):
            return Effect(deletes={r for r, row in rows.items() if where(row)})
        case Update(where, sets):
            _need(columns, *(s.field for s in sets))
            hit = {r: row for r, row in rows.items() if where(row)}
            return Effect(changes={r: {s.field: s(row) for s in sets} for r, row in hit.items()})
        case Upsert(cells) | Merge(cells):
            return _merge(cells, rows, columns, isinstance(intent, Merge) and intent.delete_unmatched)
        case Overwrite(where, cells):
            gone = {r for r, row in rows.items() if where(row)}
            return Effect(deletes=gone, inserts=[_row(c, columns) for c in cells])
        case AddColumn(name, value, required, computed):
            rule = (value.source, value.constant or 0) if computed and value and value.source else None
            filled = {r: value(row) for r, row in rows.items()} if value else {}
            if required and any(filled.get(r) is None for r in rows):
                raise RefusedError("a required column needs values")
            return Effect(added=Column(name, required, rule), filled=filled)
        case DropColumn(field_id):
            _need(columns, field_id)
            return Effect(dropped=field_id)
        case RenameColumn(field_id, name):
            _need(columns, field_id)
            return Effect(columns={field_id: replace(columns[field_id], name=name)})
        case AlterColumn(field_id, required):
            _need(columns, field_id)
            if required and any(row[field_id] is None for row in rows.values()):
                raise RefusedError("NULL in a column made required")
            return Effect(columns={field_id: replace(columns[field_id], required=required)})
        case Backfill(value, every=every):
            _need(columns, value.field)
            filled = {r: row for r, row in rows.items() if every or row[value.field] is None}
            return Effect(changes={r: {value.field: value(row)} for r, row in filled.items()})
        case _:
            return Effect()


def _merge(cells: tuple[Cells, ...], rows: Rows, columns: Mapping[int, Column], unmatched: bool) -> Effect:
    source = {dict(c)[KEY]: dict(c) for c in cells}
    if len(source) < len(cells) or None in source:
        raise RefusedError("the source repeats a key or has none")
    found, matched = Effect(), set()
    _need(columns, KEY, *(f for row in source.values() for f in row))
    for row_id, row in rows.items():
        key = row[KEY]
        if key in source:
            matched.add(key)
            found.changes[row_id] = {f: v for f, v in source[key].items() if f != KEY}
        elif unmatched:
            found.deletes.add(row_id)
    found.inserts = [_row(tuple(row.items()), columns) for key, row in source.items() if key not in matched]
    return found


def _row(cells: Cells, columns: Mapping[int, Column]) -> Row:
    values = dict(cells)
    return {f: values.get(f) for f in columns}


def _need(columns: Mapping[int, Column], *field_ids: int) -> None:
    for field_id in field_ids:
        if field_id not in columns:
            raise RefusedError(f"there is no column {field_id}")


def _refuse_bad(found: Effect, rows: Rows, columns: Mapping[int, Column]) -> None:
    """NULL in a required column, a taken name."""
    written = [*found.inserts, *found.changes.values()]
    for field_id, column in columns.items():
        if column.required and any(field_id in row and row[field_id] is None for row in written):
            raise RefusedError(f"NULL in required column {field_id}")
    names = [found.added] if found.added else list(found.columns.values())
    others = {c.name for f, c in columns.items() if f not in found.columns}
    if any(column.name in others for column in names):
        raise RefusedError("the name is taken")


def _refuse_bad_keys(found: Effect, rows: Rows) -> None:
    kept = {r: {**row, **found.changes.get(r, {})} for r, row in rows.items() if r not in found.deletes}
    keys = [row.get(KEY) for row in (*kept.values(), *found.inserts)]
    if None in keys or len(set(keys)) < len(keys):
        raise RefusedError("a key is NULL or taken")
