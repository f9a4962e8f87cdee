"""``lake branch`` and ``--branch``: what they do and what they print."""

from __future__ import annotations

from pathlib import Path

import lake_format as lake
from cli.helpers import ROWS, Run


def test_a_branch_from_making_to_deleting(cli: Run, items: lake.Table) -> None:
    """spec: BRA-4, BRA-7, BRA-13"""
    done = cli("branch", "create", "items", "try")
    assert done.code == 0, done.err
    assert f"{ROWS:,} rows" in done.out
    Path("row.jsonl").write_text('{"id": 9999, "vec": [1, 2, 3, 4, 5, 6, 7, 8]}\n')
    assert cli("append", "items", "row.jsonl", "--branch", "try").code == 0
    assert lake.open("items").count() == ROWS
    assert lake.open("items", branch="try").count() == ROWS + 1
    assert cli("branch", "list", "items", "--json").rows == [
        {"name": "try", "from_branch": "main", "from_version": items.version}
    ]
    assert cli("branch", "fast-forward", "items", "try").code == 0
    assert lake.open("items").count() == ROWS + 1
    assert cli("branch", "delete", "items", "try").code == 0
    assert cli("branch", "list", "items").out == ""


def test_a_branch_is_merged_into_where_it_was_made_from(cli: Run, items: lake.Table) -> None:
    """spec: BRA-14"""
    assert cli("branch", "create", "items", "outer").code == 0
    assert cli("branch", "create", "items", "inner", "--branch", "outer").code == 0
    for number, line in enumerate(("main", "outer", "inner")):
        Path("row.jsonl").write_text(f'{{"id": {9000 + number}, "vec": [1, 2, 3, 4, 5, 6, 7, 8]}}\n')
        assert cli("append", "items", "row.jsonl", "--branch", line).code == 0
    wrong = cli("branch", "merge", "items", "inner")
    assert wrong.code != 0
    assert "was made from outer" in wrong.err
    assert f"{ROWS + 2:,} rows" in cli("branch", "merge", "items", "inner", "--branch", "outer").out
    done = cli("branch", "merge", "items", "outer")
    assert done.code == 0, done.err
    assert f"outer is merged into main: version {items.refresh().version}, {ROWS + 3:,} rows" in done.out


def test_mistakes_with_branches(cli: Run, items: lake.Table) -> None:
    missing = cli("branch", "create", "items")
    assert missing.code != 0
    assert "name of a branch" in missing.err
    unknown = cli("scan", "items", "--branch", "nope")
    assert unknown.code != 0
    assert "no branch 'nope'" in unknown.err
