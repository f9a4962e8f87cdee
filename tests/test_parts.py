"""Many processes write one append: parts, committed together once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Location

import lake_format as lake

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string()), ("vec", pa.list_(pa.float32(), 2))])


def rows(first: int, count: int = 5) -> list[dict[str, object]]:
    return [{"id": n, "name": f"n{n}", "vec": [n, -n]} for n in range(first, first + count)]


def made(uri: Location) -> lake.Table:
    return lake.create(uri.uri, SCHEMA, storage_options=uri.storage_options).append(rows(0))


def data_files(table: lake.Table) -> set[str]:
    return {info.path for info in table.snapshot.store.list("data/")}


def test_parts_are_nothing_until_they_are_committed_and_then_one_version(table_uri: Location) -> None:
    """spec: COM-1"""
    table = made(table_uri)
    writer = lake.open(table_uri.uri, table.version, storage_options=table_uri.storage_options)
    parts = [writer.write_part(rows(start)) for start in (100, 200)] + [writer.write_part([])]
    assert lake.open(table_uri.uri, storage_options=table_uri.storage_options).count() == 5
    table.append(rows(50))  # somebody else meanwhile
    table.commit_parts(parts)
    assert table.version == 4
    found = table.scan(["id"]).read_all().column("id").to_pylist()
    assert found == [*range(5), *range(50, 55), *range(100, 105), *range(200, 205)]
    assert not table.verify().problems


def test_overwrite_replaces_all_rows_in_the_same_commit(table_uri: Location) -> None:
    table = made(table_uri)
    before = table.version
    table.commit_parts([table.write_part(rows(7, 2))], overwrite=True)
    assert (table.version, table.scan(["id"]).read_all().column("id").to_pylist()) == (before + 1, [7, 8])
    assert table.checkout(before).count() == 5
    table.commit_parts([], overwrite=True)
    assert table.count() == 0


def test_a_job_that_is_retried_commits_once(tmp_path: Path) -> None:
    table = made(Location(str(tmp_path / "t")))
    parts = [table.write_part(rows(10))]
    table.commit_parts(parts, idempotency=("job", 1))
    again = [table.checkout(2).write_part(rows(10))]
    table.commit_parts(again, idempotency=("job", 1))
    assert table.count() == 10
    table.discard_parts(again)
    assert not table.verify().problems


def test_discarding_leaves_what_was_committed(tmp_path: Path) -> None:
    """A job that fails after its commit tells everybody to clean up. spec: UPK-6"""
    table = made(Location(str(tmp_path / "t")))
    kept, dropped = table.write_part(rows(10)), table.write_part(rows(20))
    assert len(data_files(table)) == 6
    table.commit_parts([kept])
    table.discard_parts([kept, dropped])
    assert len(data_files(table)) == 4
    assert table.count() == 10
    table.compact()
    table.discard_parts([kept])
    assert table.checkout(3).count() == 10
    assert not table.verify().problems


def test_what_others_changed_is_judged(tmp_path: Path) -> None:
    table = made(Location(str(tmp_path / "t")))
    part = table.write_part(rows(10))
    lake.open(table.uri).alter_column("name", nullable=True).add_column("more", pa.int64()).drop_column(
        "name"
    )
    table.commit_parts([part])
    assert table.to_arrow().column_names == ["id", "vec", "more"]
    assert table.count() == 10


def test_mistakes(tmp_path: Path) -> None:
    table, other = made(Location(str(tmp_path / "t"))), made(Location(str(tmp_path / "other")))
    part = table.write_part(rows(10))
    with pytest.raises(lake.CorruptionError, match="truncated"):
        table.commit_parts([part[:-1]])
    with pytest.raises(lake.CorruptionError, match="no part"):
        table.commit_parts([b"anything"])
    with pytest.raises(lake.InvalidInputError, match="another table"):
        table.commit_parts([other.write_part(rows(1))])
    table.append(rows(30))
    with pytest.raises(lake.InvalidInputError, match="versions 2, 3"):
        table.commit_parts([part, table.write_part(rows(1))])
    keyed = lake.create(str(tmp_path / "k"), SCHEMA.set(0, pa.field("id", pa.int64(), False)), key="id")
    with pytest.raises(lake.UnsupportedError, match="key"):
        keyed.write_part(rows(1))
    with pytest.raises(lake.InvalidInputError, match="name"):
        table.write_part([{"id": 1, "nmae": "x"}])
    assert table.count() == 10


def test_parts_of_several_processes(tmp_path: Path) -> None:
    table = made(Location(str(tmp_path / "t")))
    code = """if True:
        import sys, lake_format as lake
        table = lake.open(sys.argv[1], int(sys.argv[2]))
        part = table.write_part([{"id": int(sys.argv[3]), "name": "p", "vec": [1, 2]}])
        sys.stdout.buffer.write(part)
    """
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, table.uri, str(table.version), str(number)], stdout=subprocess.PIPE
        )
        for number in (70, 71)
    ]
    table.commit_parts([one.communicate()[0] for one in running])
    assert sorted(table.scan(["id"], "id >= 70").read_all().column("id").to_pylist()) == [70, 71]
