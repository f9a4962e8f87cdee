"""Two writers, one table: for every kind of operation a few intents, and any one of them committed past another.

The intents of a kind are chosen so that between any two kinds every condition of their cell holds for some pair,
and none for another.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from lake_format.conflicts import Decision, Matrix

from .checks import check_table
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
)  # fmt: skip
from .planning import KINDS
from .table import Attempt, ModelTable

K, A, B, V, C = 1, 2, 3, 4, 5


def _row(key: int, a: int, vector: int) -> tuple[tuple[int, int], ...]:
    return ((K, key), (A, a), (B, 0), (V, vector))


INTENTS: dict[str, tuple[Intent, ...]] = {
    "append": (
        Append((_row(9, 1, 2),), indexed=True),
        Append((_row(8, 2, 7),)),
        Append((((K, 8), (A, 1)),)),
        Append((_row(1, 2, 7),)),
    ),
    "delete": (Delete(Where(A, 1)), Delete(Where(K, 3)), Delete(Where(C, None)), Delete(Where(), whole=True)),
    "update": (
        Update(Where(A, 1), (Set(V, 4),), "patch"),
        Update(Where(K, 1), (Set(B, 1, B),), "group"),
        Update(Where(K, 1), (Set(A, -1, A),), "move"),
        Update(Where(K, 4), (Set(K, 9),), "group"),
        Update(Where(K, 4), (Set(B, None), Set(K, 1)), "patch"),
        Update(Where(K, 2), (Set(C, None), Set(B, 3)), "patch"),
        Update(Where(K, 5), (Set(C, 6),), "move"),
        Update(Where(K, 1), (Set(K, 11),), "patch"),
        Update(Where(C, None), (Set(A, 1, A),), "move"),
    ),
    "upsert": (
        Upsert((_row(1, 7, 6), _row(9, 0, 3)), indexed=True),
        Upsert((((K, 2), (B, 5)),), "patch"),
        Upsert((((K, 1), (V, 5)),), "group"),
        Upsert((((K, 5), (C, 5)), ((K, 3), (C, 5))), "move"),
        Upsert((((K, 1), (B, 4)), ((K, 2), (B, 4))), "move"),
    ),
    "merge": (
        Merge((_row(1, 7, 6), _row(9, 0, 3))),
        Merge(tuple(_row(key, 4, key) for key in (1, 2, 4, 5)), delete_unmatched=True, how="patch"),
        Merge((((K, 2), (A, 3)),), how="group"),
        Merge((((K, 5), (C, 3)), ((K, 6), (C, 2))), how="move"),
    ),
    "overwrite": (
        Overwrite(Where(A, 1), (_row(9, 1, 8),)),
        Overwrite(Where(A, 2), (_row(7, 2, 8),), whole=True),
        Overwrite(Where(), (_row(1, 2, 0),), whole=True),
        Overwrite(Where(C, None), ()),
    ),
    "add_column": (
        AddColumn("d"),
        AddColumn("e", Set(0, 1, A)),
        AddColumn("d", Set(0, 2, B), required=True),
        AddColumn("h", Set(0, 4, C), computed=True),
    ),
    "drop_column": (DropColumn(A), DropColumn(V), DropColumn(C), DropColumn(K)),
    "rename_column": (RenameColumn(A, "d"), RenameColumn(C, "f"), RenameColumn(A, "g"), RenameColumn(B, "g")),
    "alter_column": (AlterColumn(A, True), AlterColumn(V, True), AlterColumn(A, False), AlterColumn(B, True)),
    "backfill": (
        Backfill(Set(C, 1, A), "group"),
        Backfill(Set(C, 3), "patch"),
        Backfill(Set(C, 2, B), "move"),
        Backfill(Set(V, 2), "group"),
        Backfill(Set(A, None), every=True),
    ),
    "create_index": (CreateIndex("fresh", V), CreateIndex("other", A), CreateIndex("fresh", A)),
    "drop_index": (DropIndex("by_vec"), DropIndex("by_c")),
    "optimize_index": (OptimizeIndex("by_vec"), OptimizeIndex("by_c")),
    "compact": (Compact((0, 1)), Compact((1, 2))),
    "cluster": (Cluster((0, 1, 2), A), Cluster((2,), A)),
    "expire": (Expire(3), Expire(4)),
    "restore": (Restore(2), Restore(3)),
    "set_properties": (SetProperty("x", 1), SetProperty("y", 1), DeclareKey()),
    "set_ref": (SetRef("t", 2), SetRef("u", 3)),
}  # fmt: skip


def make_table(keyed: bool, *, serializable: bool = False, matrix: Matrix | None = None) -> ModelTable:
    """Six rows in three fragments, two indexes that are behind by a fragment, NULLs in ``c``, four versions."""
    table = _start(keyed).copy()
    table.serializable, table.matrix = serializable, matrix
    return table


@cache
def _start(keyed: bool) -> ModelTable:
    table = ModelTable(keyed)
    rows = [
        {K: key, A: 1 + key % 2, B: key, V: 10 - key, C: key if key in (1, 4) else None}
        for key in range(1, 7)
    ]
    rows[5][V] = None
    table.load([rows[:2], rows[2:4]])
    table.run(CreateIndex("by_vec", V))
    table.run(CreateIndex("by_c", C))
    table.run(Append(tuple(tuple(row.items()) for row in rows[4:])))
    return table


def run_pair(
    mine: Intent, theirs: Intent, keyed: bool, *, serializable: bool = False, matrix: Matrix | None = None
) -> Decision | None:
    """Plan mine, commit theirs, commit mine, check every version. The decision; None if theirs is impossible."""
    table = make_table(keyed, serializable=serializable, matrix=matrix)
    try:
        own = table.begin(0, mine)
        other = table.begin(0, theirs)
        table.commit(other)
    except RefusedError:
        return None
    return _finish(table, own)


def _finish(table: ModelTable, own: Attempt) -> Decision | None:
    try:
        table.commit(own)
    except RefusedError:
        check_table(table)
        return own.decision
    check_table(table)
    line = table.lines[0]
    if own.decision and KINDS[type(own.intent)] not in ("expire", "restore"):
        _follow_up(table)
    assert line.latest.number >= 5
    return own.decision


def _follow_up(table: ModelTable) -> None:
    """Life goes on: later operations meet whatever state the two have left behind."""
    for intent in (
        Delete(Where(K, 2)),
        OptimizeIndex("by_vec"),
        Compact(tuple(table.lines[0].latest.fragments)),
    ):
        try:
            table.run(intent)
        except RefusedError:
            continue
    check_table(table, only_latest=True)


def pairs(mine_kind: str, theirs_kind: str) -> Iterator[tuple[Intent, Intent]]:
    """All pairs of intents of a cell."""
    for mine in INTENTS[mine_kind]:
        for theirs in INTENTS[theirs_kind]:
            yield mine, theirs
