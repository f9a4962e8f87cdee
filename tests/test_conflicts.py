"""The conflict matrix: its file, its conditions, every one of its cells, and that no rule of it is idle."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import conflict_table
from model.effects import Set, Update, Where
from model.scenarios import make_table, pairs, run_pair
from model.state import ViolationError
from model.table import RefusedError

from lake_format.conflicts import (
    CONDITIONS,
    Action,
    Matrix,
    OperationRecord,
    decide,
    decide_all,
    load_matrix,
    parse_matrix,
)
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.row_runs import RowRuns

MATRIX = load_matrix()
KINDS = list(MATRIX.kinds)
PACKAGE = Path(conflict_table.__file__).parents[2] / "lake_format"
ROW_WRITERS = {"append", "update", "upsert", "merge", "overwrite"}
KEYS_MATTER = ROW_WRITERS | {"drop_column", "set_properties", "add_column"}

# The model joins upsert and merge on the key column only, so nobody in it changes what they read by other means.
NOT_SHOWN = {
    (mine, theirs, condition)
    for mine in ("upsert", "merge")
    for theirs in ("upsert", "merge", "backfill")
    for condition in ("values_read", "read_column")
} | {("upsert", "backfill", "same_key")}  # shown by hypothesis: a NULL that becomes a key of the source

# Nobody reads what a new column writes, unless it is a member of a struct, which the model has none of; shown by
# tests/test_member_values.py.
NOT_SHOWN |= {
    (mine, "add_column", "values_read") for mine in ("update", "upsert", "merge", "backfill", "add_column")
}

# Columns of the model have no types, so that none gets a wider one; shown by tests/test_conflict_cells.py.
NOT_SHOWN |= {("set_properties", "alter_column", "read_column")}

ROWS = RowRuns.from_ids([7, 8])
SHOWN_BY: dict[str, tuple[dict, dict]] = {
    "always": ({}, {}),
    "same_name": ({"claims": frozenset({"column:x"})}, {"claims": frozenset({"column:x", "column:y"})}),
    "same_column": ({"fields_written": frozenset({3})}, {"fields_written": frozenset({3, 4})}),
    "read_column": ({"fields_read": frozenset({3})}, {"fields_written": frozenset({3})}),
    "indexed_column": ({"fields_written": frozenset({3})}, {"fields_read": frozenset({3})}),
    "values_read": (
        {"fields_read": frozenset({3}), "rows_deleted": ROWS},
        {"fields_written": frozenset({3}), "rows_updated": RowRuns(((8, 9),))},
    ),
    "values_written": (
        {"fields_written": frozenset({3}), "rows_updated": ROWS},
        {"fields_written": frozenset({3}), "rows_updated": RowRuns(((0, 8),))},
    ),
    "same_rows": ({"rows_deleted": ROWS}, {"rows_updated": RowRuns(((8, 1),))}),
    "rows_gone": ({"rows_updated": ROWS}, {"rows_deleted": RowRuns(((8, 1),))}),
    "rows_added": ({}, {"rows_added": 1}),
    "same_key": ({"key_hashes": (5, 9)}, {"key_hashes": (1, 2, 9)}),
    "required": ({"rows_added": 1}, {"fields_required": frozenset({3})}),
    "fragment_gone": ({"fragments_masked": frozenset({2})}, {"fragments_removed": frozenset({1, 2})}),
    "fragment_masked": ({"fragments_removed": frozenset({2})}, {"fragments_masked": frozenset({2})}),
    "fragment_rewritten": ({"fragments_rewritten": frozenset({2})}, {"fragments_rewritten": frozenset({2})}),
}
"""For each condition, the parts of mine and of theirs that make it hold."""


def record(kind: str, **parts: object) -> OperationRecord:
    return OperationRecord(kind=kind, **parts)  # type: ignore[arg-type]


def test_matrix_covers_every_pair_of_kinds() -> None:
    """spec: CON-5, CON-6"""
    assert set(MATRIX.snapshot) == {(mine, theirs) for mine in KINDS for theirs in KINDS}
    used = {
        name
        for cells in (MATRIX.snapshot, MATRIX.serializable)
        for rules in cells.values()
        for name, _ in rules
    }
    assert used == set(CONDITIONS) == set(MATRIX.conditions) == set(SHOWN_BY)
    for mine in ("optimize_index", "compact", "cluster"):  # spec: CON-8, upkeep gives way
        actions = {action for theirs in KINDS for _, action in MATRIX.rules(mine, theirs, True)}
        assert actions <= {Action.REMAP, Action.YIELD}
    for mine, theirs in MATRIX.snapshot:
        if theirs in ("optimize_index", "compact", "cluster", "expire"):
            assert Action.CONFLICT not in {action for _, action in MATRIX.rules(mine, theirs, True)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"expire" = ["always: yield"]', ""),
        ('"set_ref" = ["always: replan"]', '"set_ref expire" = ["always: replan"]'),
        ('"expire" = ["always: yield"]', '"expires" = ["always: yield"]'),
        ('["always: yield"]', '["sometimes: yield"]'),
        ('["always: yield"]', '["always: panic"]'),
        ('same_name = "', 'same_title = "'),
    ],
)
def test_a_matrix_with_a_hole_is_refused(old: str, new: str) -> None:
    text = (PACKAGE / "conflict_matrix.toml").read_text("utf-8")
    assert old in text
    with pytest.raises(CorruptionError):
        parse_matrix(text.replace(old, new))


def test_the_table_in_the_spec_is_the_matrix() -> None:
    """spec: CON-5. Mend with: python tests/model/conflict_table.py"""
    chapter = (PACKAGE.parent / "spec" / "identity.md").read_text("utf-8")
    assert conflict_table.render(MATRIX) in chapter


def test_the_package_carries_the_matrix_of_the_spec() -> None:
    """spec: CON-5. The file in spec/ is what counts; mend the copy."""
    name = "conflict_matrix.toml"
    assert (PACKAGE / name).read_bytes() == (PACKAGE.parent / "spec" / name).read_bytes()


@pytest.mark.parametrize("mine", KINDS)
def test_every_rule_of_every_cell_is_what_decides(mine: str) -> None:
    """spec: CON-6. Records that meet one condition get its action; records that meet none commute."""
    for theirs in KINDS:
        for serializable in (False, True):
            rules = dict(MATRIX.rules(mine, theirs, serializable))
            if "always" not in rules:
                apart = decide(record(mine), record(theirs), serializable=serializable)
                assert (apart.action, apart.reasons) == (Action.COMMUTE, ())
            for name, (own, other) in SHOWN_BY.items():
                pair = record(mine, **own), record(theirs, **other)
                found = decide(*pair, serializable=serializable)
                met = {rules[c]: c for c in rules if CONDITIONS[c](*pair)}
                assert found.action is max([Action.COMMUTE, *met], key=lambda action: action.strength)
                if name in rules:
                    assert found.action.strength >= rules[name].strength
                    assert found.reasons
                    assert MATRIX.conditions[found.reasons[0]] in found.text


@cache
def _run(mine: str, theirs: str, matrix: Matrix | None, keyed: bool, serializable: bool) -> int:
    """Run all pairs of a cell in the model; how many could be run. ViolationError if one goes wrong."""
    runs = [
        run_pair(x, y, keyed, serializable=serializable, matrix=matrix) is not None
        for x, y in pairs(mine, theirs)
    ]
    return sum(runs)


def _settings(mine: str, theirs: str) -> list[tuple[bool, bool]]:
    """(keyed, serializable) under which a cell behaves differently."""
    chosen = [(True, False)]
    if {mine, theirs} <= KEYS_MATTER:
        chosen.append((False, False))
    if (mine, theirs) in MATRIX.serializable:
        chosen.append((True, True))
    return chosen


@pytest.mark.parametrize("mine", KINDS)
def test_every_cell_gives_the_truth_in_the_model(mine: str) -> None:
    """spec: CON-7. Whatever the decision, the table is what the operations one after the other make of rows."""
    for theirs in KINDS:
        ran = [_run(mine, theirs, None, *setting) for setting in _settings(mine, theirs)]
        assert any(ran), f"no pair of {mine} and {theirs} could be run"


@pytest.mark.parametrize("mine", KINDS)
def test_every_rule_is_met_in_the_model(mine: str) -> None:
    """A rule that no pair of intents meets would be unproven."""
    for theirs in KINDS:
        rules = set(MATRIX.rules(mine, theirs, True))
        met = {c for keyed in (True, False) for c in _met(mine, theirs, keyed)}
        idle = {c for c, _ in rules} - met - {c for m, t, c in NOT_SHOWN if (m, t) == (mine, theirs)}
        assert not idle, f"{mine} after {theirs}: nothing shows {idle}"


def _met(mine: str, theirs: str, keyed: bool) -> set[str]:
    table = make_table(keyed)
    found: set[str] = set()
    for x, y in pairs(mine, theirs):
        try:
            own, other = table.begin(0, x).plan.record, table.begin(0, y).plan.record
        except RefusedError:
            continue
        found |= {name for name, holds in CONDITIONS.items() if holds(own, other)}
    return found


def _without(condition: str) -> Matrix:
    snapshot, serializable = (
        {cell: tuple(rule for rule in rules if rule[0] != condition) for cell, rules in cells.items()}
        for cells in (MATRIX.snapshot, MATRIX.serializable)
    )
    return replace(MATRIX, snapshot=snapshot, serializable=serializable)


@pytest.mark.parametrize("condition", sorted(set(CONDITIONS) - {"values_written"}))
def test_without_a_condition_the_model_breaks(condition: str) -> None:
    """Mutation: a matrix that has lost one condition must be found out."""
    weaker = _without(condition)
    affected = [cell for cell, rules in MATRIX.snapshot.items() if condition in dict(rules)]
    assert any(_breaks(mine, theirs, weaker) for mine, theirs in affected)


def test_the_first_of_two_blind_writes_is_not_lost_unseen() -> None:
    """spec: CON-10. A serial run would keep the last value; the matrix tells the second writer instead."""
    mine, theirs = Update(Where(1, 1), (Set(2, 50),)), Update(Where(1, 1), (Set(2, 60),), "group")
    for matrix, values in ((None, {60}), (_without("values_written"), {50})):
        table = make_table(True, matrix=matrix)
        own = table.begin(0, mine)
        table.run(theirs)
        with suppress(RefusedError):
            table.commit(own)
        assert {row[2] for row in table.lines[0].latest.rows().values() if row[1] == 1} == values


def test_without_its_rules_serializable_isolation_breaks() -> None:
    """spec: CON-9. What serializable isolation adds is needed for it, and snapshot isolation allows it."""
    weaker = replace(MATRIX, serializable={})
    broken = {cell for cell in MATRIX.serializable if _breaks(*cell, weaker, settings=[(True, True)])}
    assert {
        ("delete", "append"),
        ("update", "update"),
        ("delete", "upsert"),
        ("update", "overwrite"),
    } <= broken


def _breaks(mine: str, theirs: str, matrix: Matrix, settings: list[tuple[bool, bool]] | None = None) -> bool:
    for keyed, serializable in settings or _settings(mine, theirs):
        for x, y in pairs(mine, theirs):
            try:
                run_pair(x, y, keyed, serializable=serializable, matrix=matrix)
            except (ViolationError, KeyError):
                return True
    return False


def test_unknown_kinds() -> None:
    """spec: CON-4"""
    found = decide(record("append"), record("teleport"))
    assert found.action is Action.CONFLICT
    assert "teleport" in found.text
    with pytest.raises(InvalidInputError, match="teleport"):
        decide(record("teleport"), record("append"))


def test_keys_that_are_not_loaded_count_as_overlapping() -> None:
    """spec: CON-3"""
    far = OperationRecord.from_json({"kind": "upsert", "rows_added": 1, "key_hashes_at": "_lake/keys/1"})
    assert decide(record("append", key_hashes=(1,)), far).action is Action.CONFLICT
    assert decide(record("append"), far).action is Action.COMMUTE
    assert decide(record("upsert", key_hashes=None), record("append", rows_added=1)).action is Action.REPLAN
    assert decide(record("upsert", key_hashes=None), record("append")).action is Action.COMMUTE
    loaded = replace(far, key_hashes=(2,))
    assert decide(record("append", key_hashes=(1,)), loaded).action is Action.COMMUTE


def test_a_transaction_takes_the_strongest_decision() -> None:
    """spec: CON-6"""
    mine = [record("append", key_hashes=(1,)), record("delete", fragments_masked=frozenset({1}))]
    theirs = [record("compact", fragments_removed=frozenset({1})), record("append", key_hashes=(2,))]
    assert decide_all(mine, theirs).action is Action.REMAP
    assert decide_all(mine, [*theirs, record("append", key_hashes=(1,))]).action is Action.CONFLICT
    assert decide_all(mine, []).action is Action.COMMUTE


numbers = st.frozensets(st.integers(0, 2**40), max_size=4)
run_sets = st.builds(RowRuns.from_ids, st.sets(st.integers(0, 60) | st.integers(2**40, 2**40 + 9)))
records = st.builds(
    OperationRecord,
    kind=st.sampled_from(KINDS), fields_read=numbers, fields_written=numbers, fields_required=numbers,
    rows_added=st.integers(0, 9), rows_deleted=run_sets, rows_updated=run_sets,
    fragments_masked=numbers, fragments_rewritten=numbers, fragments_removed=numbers,
    key_hashes=st.none() | st.sets(st.integers(0, 2**64 - 1)).map(lambda keys: tuple(sorted(keys))),
    claims=st.frozensets(st.text(max_size=3), max_size=3),
)  # fmt: skip


@given(records)
def test_records_survive_json(given_record: OperationRecord) -> None:
    """spec: CON-2"""
    assert OperationRecord.from_json(given_record.to_json()) == given_record
    assert OperationRecord.from_json({**given_record.to_json(), "later": 1}) == given_record


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": ""}, {"kind": 3}, {"rows_added": -1}, {"rows_added": True}, {"fields_read": [-1]},
        {"fields_read": "1"}, {"rows_deleted": [[3, 0]]}, {"rows_deleted": [[3, 2], [5, 1]]},
        {"rows_updated": [[2**63, 1]]}, {"rows_updated": [[3]]}, {"rows_updated": 3}, {"claims": [1]},
        {"key_hashes": "AAAA"}, {"key_hashes": "!"}, {"key_hashes": 1}, {"key_hashes": "AAAAAAAAAAAAAAAAAAAAAA=="},
        {"key_hashes_at": 1},
    ],
)  # fmt: skip
def test_broken_records_are_refused(parts: dict[str, object]) -> None:
    with pytest.raises(CorruptionError):
        OperationRecord.from_json({"kind": "append", **parts})


@given(run_sets, run_sets, st.integers(1, 4))
def test_row_runs_are_sets(one: RowRuns, other: RowRuns, limit: int) -> None:
    """spec: CON-3"""
    assert one.overlaps(other) == bool(set(one) & set(other))
    assert RowRuns.from_ids(one) == one
    assert len(one) == len(set(one))
    coarse = one.coarsened(limit)
    assert len(coarse.runs) <= max(limit, 1)
    assert set(one) <= (set(coarse) if len(coarse) < 1000 else set(one))
    assert all(any(f <= r < f + c for f, c in coarse.runs) for r in one)
