"""The invariants: what must hold in every version, however it came about."""

from __future__ import annotations

from .oracle import Truth
from .state import KEY, Snapshot, ViolationError, nearest
from .table import ModelTable


def check_table(table: ModelTable, *, only_latest: bool = False) -> None:
    """Every version that still exists, old ones included, is what its truth says."""
    for line in table.lines.values():
        chosen = [line.latest.number] if only_latest else list(line.versions)
        for number in chosen:
            check_version(line.versions[number], line.truths[number])
        times = [line.versions[n].committed_at for n in sorted(line.versions)]
        if times != sorted(set(times)):
            raise ViolationError("commit times do not grow")
    tokens = [(writer, sequence) for _, writer, sequence in table.landed if sequence]
    if len({commit for commit, _, _ in table.landed}) < len(table.landed) or len(set(tokens)) < len(tokens):
        raise ViolationError("one operation was committed twice")


def check_version(snapshot: Snapshot, truth: Truth) -> None:
    """One version: rows, columns, row ids, keys, required values, indexes."""
    rows = snapshot.rows()
    if rows != truth.rows:
        differing = {r for r in rows.keys() | truth.rows.keys() if rows.get(r) != truth.rows.get(r)}
        told = {r: (rows.get(r), truth.rows.get(r)) for r in sorted(differing)}
        raise ViolationError(f"rows differ from the truth (is, should be): {told}")
    if snapshot.columns != truth.columns:
        raise ViolationError(f"columns {snapshot.columns} should be {truth.columns}")
    if snapshot.next_row_id != truth.next_row_id:
        raise ViolationError("the row-id counter is not the number of rows ever added")
    for field_id, column in snapshot.columns.items():
        if column.required and any(row[field_id] is None for row in rows.values()):
            raise ViolationError(f"NULL in required column {field_id}")
    for field_id, column in snapshot.columns.items():
        rule = column.computed
        if rule and any(row[field_id] != (row[rule[0]] or 0) + rule[1] for row in rows.values()):
            raise ViolationError(f"computed column {field_id} does not hold what its expression says")
    if snapshot.keyed != truth.keyed:
        raise ViolationError("the key declaration was lost")
    if snapshot.keyed and KEY in snapshot.columns:
        keys = [row[KEY] for row in rows.values()]
        if None in keys or len(set(keys)) < len(keys):
            raise ViolationError(f"a key is NULL or twice: {sorted(map(str, keys))}")
    _check_indexes(snapshot, truth)


def _check_indexes(snapshot: Snapshot, truth: Truth) -> None:
    for index in snapshot.indexes.values():
        if index.field not in snapshot.columns:
            raise ViolationError(f"index {index.name} outlived its column")
        answered = [r for shard in index.shards for r in shard.answers()]
        if len(set(answered)) < len(answered):
            raise ViolationError(f"two shards of {index.name} answer for one row")
        values = {r: row[index.field] for r, row in truth.rows.items()}
        for query, k in ((0, 3), (5, len(values))):
            found, due = snapshot.search(index, query, k), nearest(values, query, k)
            if found != due:
                raise ViolationError(f"search of {index.name} for {query} found {found}, should be {due}")
