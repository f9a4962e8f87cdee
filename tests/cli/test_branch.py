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


def test_mistakes_with_branches(cli: Run, items: lake.Table) -> None:
    missing = cli("branch", "create", "items")
    assert missing.code != 0
    assert "name of a branch" in missing.err
    unknown = cli("scan", "items", "--branch", "nope")
    assert unknown.code != 0
    assert "no branch 'nope'" in unknown.err
