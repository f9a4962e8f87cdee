"""Every cell of the conflict matrix on a real table (tests/cells): what it says is what becomes of two commits.

``mine`` is planned on a version; before it is committed ``theirs`` is, which was planned on the same version. What
comes of it is judged by the matrix: an error that names both, and the table that ``theirs`` alone made, to the last
file; or the table that both make one after the other, by a model in plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from cells.judging import check
from cells.meeting import MATRIX, SAMPLES, Pair, pairs, solo
from cells.table import Kind, base

from lake_format.conflicts import Action

Cell = tuple[str, str]
CELLS = sorted(MATRIX.snapshot)

NOT_SHOWN = {
    # The format lets a backfill move rows (tests/model does); this release gives fragments new groups, no more.
    *((mine, "backfill", rule) for mine in MATRIX.kinds for rule in ("fragment_gone", "fragment_masked")),
    # An upsert reads the columns it joins on; only a struct gets other values by a new column, and joins nothing.
    ("upsert", "add_column", "values_read"),
}
"""Rules that no two calls of this release can show, with their cells."""

NEVER_APART = {
    *((mine, "append") for mine in MATRIX.kinds),  # where it is to be planned again for rows that were added
    ("cluster", "cluster"),  # both take whatever is out of order
}
"""Cells of which a rule holds for any two calls."""


def _rules(cell: Cell, serializable: bool) -> Mapping[str, Action]:
    return dict((MATRIX.serializable if serializable else MATRIX.snapshot)[cell])


def _showing(found: list[Pair], rules: Mapping[str, Action], cell: Cell) -> list[Pair]:
    """As few pairs as show every rule: it holds, and no stronger one does where that can be."""
    left = [rule for rule in rules if (*cell, rule) not in NOT_SHOWN]
    wanted = list[Pair]()
    while left:
        rule = max(left, key=lambda one: rules[one].strength)
        held = [pair for pair in found if rule in pair.met]
        assert held, f"{cell}: no two samples show {rule!r}"
        deciding = [pair for pair in held if pair.action is rules[rule]] or held
        wanted.append(max(deciding, key=lambda pair: sum(one in pair.met for one in left)))
        left = [one for one in left if one not in wanted[-1].met or rules[one] is not rules[rule]]
    return wanted


def showing(cell: Cell, serializable: bool = False) -> list[Pair]:
    """Pairs that show each rule of a cell."""
    found = list(pairs(*cell, serializable=serializable))
    return _showing(found, _rules(cell, serializable), cell)


def apart(cell: Cell, serializable: bool = False) -> list[Pair]:
    """Of the pairs for which no rule of a cell holds the one that shares most."""
    found = [pair for pair in pairs(*cell, serializable=serializable) if not pair.met]
    certain = "always" in dict(MATRIX.snapshot[cell])
    assert found or certain or cell in NEVER_APART, f"{cell}: a rule holds for any two samples"
    return [max(found, key=lambda pair: pair.nearness)] if found else []


def test_every_kind_of_operation_takes_part() -> None:
    """spec: CON-5. A kind that is new to the matrix needs samples."""
    assert {sample.kind for sample in SAMPLES} == set(MATRIX.kinds)
    titles = [str(sample) for sample in SAMPLES]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("kind", MATRIX.kinds)
def test_records_tell_what_was_touched(kind: str) -> None:
    """spec: CON-2, CON-3, CON-12. What a later writer judges by says no less than what was done."""
    for sample in SAMPLES:
        for keyed in sample.keyed if sample.kind == kind else ():
            start = base(Kind(keyed))
            told, effect = solo(sample, Kind(keyed)).record, sample.plan(start.state)
            assert set(told.rows_deleted) >= effect.deletes, str(sample)
            assert set(told.rows_updated) >= effect.sets.keys(), str(sample)
            assert told.rows_added == len(effect.inserts), str(sample)
            written = {start.field_ids.get(one) for row in effect.sets.values() for one in row}
            assert written - {None} <= told.fields_written | told.fields_read, str(sample)


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_cell(cell: Cell) -> None:
    """spec: CON-5, CON-6, CON-7, CON-8, CON-10"""
    for pair in showing(cell) or apart(cell):
        check(pair)


def test_something_is_apart_in_every_cell() -> None:
    for cell in CELLS:
        apart(cell)


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_what_no_rule_of_a_cell_is_about(cell: Cell) -> None:
    """spec: CON-7"""
    for pair in apart(cell):
        check(pair)


@pytest.mark.long
@pytest.mark.parametrize("cell", sorted(MATRIX.serializable), ids="-".join)
def test_cell_under_serializable_isolation(cell: Cell) -> None:
    """spec: CON-9"""
    for pair in showing(cell, serializable=True) + apart(cell, serializable=True):
        check(pair)


@pytest.mark.long
@pytest.mark.parametrize("mine", MATRIX.kinds)
def test_any_two_operations(mine: str) -> None:
    """All samples with all others, of all cells of a row."""
    for theirs in MATRIX.kinds:
        for serializable in (False, True) if (mine, theirs) in MATRIX.serializable else (False,):
            for pair in pairs(mine, theirs, serializable=serializable):
                check(pair)
