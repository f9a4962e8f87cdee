"""``lake backup`` and ``lake restore-backup``."""

from __future__ import annotations

from pathlib import Path

import lake_format as lake
from cli.helpers import ROWS, Run


def test_a_table_goes_into_a_backup_and_comes_back(items: lake.Table, cli: Run) -> None:
    done = cli("backup", "items", "kept/items")
    assert done.code == 0
    assert "backed up version" in done.out
    assert "copied 0 objects" in cli("backup", "items", "kept/items").out
    back = cli("restore-backup", "kept/items", "again")
    assert back.code == 0
    assert f"restored version {items.version}, {ROWS:,} rows" in back.out
    assert lake.open("again").to_arrow() == items.to_arrow()


def test_mistakes_are_told(items: lake.Table, cli: Run) -> None:
    assert "there is a table at" in cli("backup", "items", "items").err
    assert "there is no backup at" in cli("restore-backup", "nowhere", "again").err
    assert cli("backup", "items", "kept").code == 0
    assert "versions are:" in cli("restore-backup", "kept", "again", "--version", 99).err
    assert "there is a table at" in cli("restore-backup", "kept", "items").err


def test_a_clone_shares_files_until_its_pin_is_released(items: lake.Table, cli: Run) -> None:
    done = cli("clone", "items", "try")
    assert done.code == 0
    assert f"cloned version {items.version}, {ROWS:,} rows" in done.out
    assert "warning" not in done.err
    assert "add --allow-external" in cli("scan", "try").err
    opened = ("try", "--allow-external", "items")
    assert len(cli("scan", *opened, "--format", "json").rows) == ROWS
    described = cli("describe", *opened).out
    assert f"version {items.version}, pinned" in described
    (pin,) = cli("inspect", "items", "pins", "--format", "json").rows
    (source,) = cli("inspect", "try", "sources", "--allow-external", "items", "--format", "json").rows
    assert (source["pinned"], source["version"]) == (True, pin["version"])
    assert "pins are of" in cli("release-pin", "items", "nobody").err
    assert cli("release-pin", "items", pin["table_id"]).code == 0
    assert cli("inspect", "items", "pins", "--format", "json").rows == []
    assert "there is a table at" in cli("clone", "items", "try").err


def test_a_table_is_published_as_iceberg_s(here: Path, cli: Run) -> None:
    assert cli("create", "open", "--schema", "id int64, vec vector(2)", "--layout", "open").code == 0
    done = cli("publish", "open")
    assert done.code == 0
    assert "published version 1 as snapshot" in done.out
    assert done.out.strip().endswith("open/metadata/v1.metadata.json")
    assert cli("publish", "open", "elsewhere", "--keep", "2").code == 0
    assert "keep must be a positive whole number" in cli("publish", "open", "--keep", "0").err
