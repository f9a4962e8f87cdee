"""The command line and files outside a table's root."""

from __future__ import annotations

from pathlib import Path

import pytest
from external_samples import referring_pair

from cli.helpers import Run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return referring_pair(tmp_path)


def test_the_command_line_asks_for_consent_and_takes_it(pair: tuple[Path, Path], cli: Run) -> None:
    refused = cli("scan", pair[0])
    assert refused.code != 0
    assert "--allow-external" in refused.err
    done = cli("scan", pair[0], "--allow-external", pair[1], "--format", "json", "--columns", "id")
    assert [row["id"] for row in done.rows] == [*range(6), *range(100, 106)]
    assert f"file://{pair[1]}: 2 files" in cli("describe", pair[0]).out
    (root,) = cli("inspect", pair[0], "roots", "--format", "json").rows
    assert root["files"] == 2
