"""``lake compact``, ``optimize-index``, ``verify``, ``tag``, ``restore``, ``expire`` and ``collect-garbage``."""

from __future__ import annotations

import lake_format as lake
from cli.helpers import Run, rows


def test_small_fragments_become_one(cli: Run, items: lake.Table) -> None:
    for start in (300, 400, 500):
        items.append(rows(100, start))
    told = cli("compact", "items", "--target-rows", "10000", "--workers", "1")
    assert told.code == 0, told.err
    assert "4 fragments became 1: 600 rows" in told.out
    assert items.refresh().count() == 600
    assert "0 fragments became 0" in cli("compact", "items").out


def test_what_compact_cannot_take_is_named(cli: Run, items: lake.Table) -> None:
    for wrong in (["--target-rows", "0"], ["--deleted-share", "2"], ["--workers", "0"]):
        told = cli("compact", "items", *wrong)
        assert told.code == 2, wrong
        assert wrong[0].strip("-").replace("-", "_") in told.err.replace("-", "_")
    assert cli("compact", "nowhere").code == 3


def test_an_index_catches_up(cli: Run, items: lake.Table) -> None:
    assert "has no index" in cli("optimize-index", "items").out
    name = items.create_index("vec").inspect.indexes().to_pylist()[0]["name"]
    items.append(rows(100, 300))
    told = cli("optimize-index", "items", name)
    assert told.code == 0, told.err
    assert f"{name}: 400 rows encoded" in told.out
    assert "trained anew" in cli("optimize-index", "items", "--retrain").out
    assert cli("optimize-index", "items", "nothing").code == 3


def test_damage_is_told_and_is_an_exit_code(cli: Run, items: lake.Table) -> None:
    assert "0 problems" in cli("verify", "items").out
    lost = next(file["path"] for file in items.inspect.files().to_pylist())
    items.snapshot.store.delete(lost)
    assert cli("verify", "items", "--metadata-only").code == 0
    told = cli("verify", "items")
    assert told.code == 8
    assert lost in told.out
    assert cli("verify", "items", "--json").rows[0]["problems"][0]["path"] == lost


def test_tags_name_versions(cli: Run, items: lake.Table) -> None:
    assert cli("tag", "set", "items", "first").out == "first names version 2\n"
    items.append(rows(10, 300))
    assert cli("tag", "set", "items", "first").code == 4
    assert cli("tag", "set", "items", "first", "--move").out == "first names version 4\n"
    assert cli("tag", "set", "items", "old", "--version", "2").code == 0
    assert cli("tag", "list", "items").out == "first  version 4\nold  version 2\n"
    assert cli("tag", "delete", "items", "old").code == 0
    assert cli("tag", "delete", "items", "old").code == 3
    assert "needs the name" in cli("tag", "set", "items").err


def test_an_older_version_comes_back(cli: Run, items: lake.Table) -> None:
    cli("tag", "set", "items", "good")
    items.delete("id >= 10")
    assert "300 rows" in cli("restore", "items", "good").out
    assert "0 rows" in cli("restore", "items", "1").out
    assert cli("restore", "items", "99").code == 3
    assert cli("restore", "items", "nothing").code == 3


def test_versions_expire_and_their_files_go(cli: Run, items: lake.Table) -> None:
    items.overwrite(rows(50), "true")
    assert "0 versions expired" in cli("expire", "items", "--older-than-days", "1").out
    assert "2 versions expired; the oldest is 3" in cli("expire", "items").out
    told = cli("collect-garbage", "items", "--grace-minutes", "0")
    assert "would be removed with --apply" in told.out
    assert "data/" in told.out
    done = cli("collect-garbage", "items", "--grace-minutes", "0", "--apply")
    assert done.out.replace("removed", "would be removed with --apply") == told.out
    assert "0 files" in cli("collect-garbage", "items", "--grace-minutes", "0", "--apply").out
    assert items.refresh().count() == 50
    assert cli("collect-garbage", "items", "--grace-minutes", "-1").code == 2
    assert cli("expire", "items", "--keep", "0").code == 2
