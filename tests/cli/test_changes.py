"""Rows, columns, indexes and properties changed from a shell, and folders listed."""

from __future__ import annotations

import lake_format as lake
from cli.helpers import Run, rows


def test_matching_rows_are_deleted(cli: Run, items: lake.Table) -> None:
    assert cli("delete", "items", "--where", "id < 100").out == "100 rows deleted: version 3, 200 rows\n"
    assert cli("delete", "items", "--where", "id < 100").out == "0 rows deleted: version 3, 200 rows\n"
    assert "nothing" in cli("delete", "items", "--where", "nothing = 1").err
    assert cli("delete", "items").code == 2
    assert items.refresh().count("id < 100") == 0


def test_matching_rows_are_updated(cli: Run, items: lake.Table) -> None:
    words = ("--set", "title='a = b'", "--set", "price = price + 1")
    told = cli("update", "items", *words, "--where", "id < 2")
    assert told.code == 0, told.err
    assert told.out.startswith("2 rows updated")
    found = items.refresh().scan(["title", "price"], "id < 2").read_all().to_pylist()
    assert found == [
        {"title": "a = b", "price": 1.0},
        {"title": "a = b", "price": 1.25},
    ]
    assert cli("update", "items", "--set", "price", "--where", "true").code == 2
    assert "'absent'" in cli("update", "items", "--set", "absent=1", "--where", "true").err
    assert cli("update", "items", "--set", "price=title", "--where", "true").code == 2


def test_columns_are_renamed_and_dropped(cli: Run, items: lake.Table) -> None:
    assert cli("rename-column", "items", "title", "name").out == "title is called name now: version 3\n"
    assert cli("drop-column", "items", "name").out == "name is gone: version 4\n"
    assert items.refresh().schema.names == ["id", "price", "vec"]
    assert cli("rename-column", "items", "id", "price").code != 0
    assert cli("drop-column", "items", "name").code != 0


def test_an_index_is_dropped(cli: Run, items: lake.Table) -> None:
    items.create_index("vec")
    assert cli("drop-index", "items", "vec_l2").out == "index vec_l2 is gone: version 4\n"
    assert cli("drop-index", "items", "vec_l2").code == 3
    assert items.refresh().inspect.indexes().num_rows == 0


def test_properties_are_set_and_shown(cli: Run, items: lake.Table) -> None:
    assert "no property was set" in cli("properties", "items").out
    told = cli("properties", "items", "maintain.keep-versions=3", "user.owner=a=b")
    assert told.out == "maintain.keep-versions=3\nuser.owner=a=b\n"
    assert cli("properties", "items", "--unset", "user.owner", "--json").rows == [
        {"maintain.keep-versions": "3"}
    ]
    everything = cli("properties", "items", "--all").out
    assert "maintain.keep-versions=3\n" in everything
    assert "write.fragment-rows=1048576  (default)\n" in everything
    assert items.refresh().properties == {"maintain.keep-versions": "3"}
    for wrong in (
        ["maintain.kept=1"],
        ["word"],
        ["maintain.keep-versions=0"],
        ["user.a=1", "--unset", "user.a"],
    ):
        assert cli("properties", "items", *wrong).code == 2, wrong


def test_the_tables_of_a_folder_are_listed(cli: Run, items: lake.Table) -> None:
    lake.create("more", items.schema)
    assert cli("list-tables", ".").out == "items\nmore\n"
    assert cli("list-tables", "nowhere").out == ""


def test_compact_tells_beforehand(cli: Run, items: lake.Table) -> None:
    items.append(rows(100, 300))
    told = cli("compact", "items", "--dry-run")
    assert told.out == "1 groups of fragments would be written anew; nothing was changed\n"
    assert items.refresh().version == 3
    assert cli("compact", "items", "--dry-run", "--workers", "2").code == 2
