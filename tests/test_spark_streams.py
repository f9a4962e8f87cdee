"""Streams of Spark into a table: every batch is one commit, once, whatever is run again."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from spark_session import session

import lake_format as lake
from lake_format.table import Table


@pytest.fixture(scope="module")
def spark() -> Any:
    return session()


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return lake.create(str(tmp_path / "items"), pa.schema([("id", pa.int64()), ("name", pa.string())]))


def drop_in(folder: Path, *ids: int) -> None:
    """A file of rows for the stream; complete when it appears."""
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps({"id": one, "name": f"n{one}"}) + "\n" for one in ids)
    (folder.parent / "draft").write_text(text)
    (folder.parent / "draft").rename(folder / f"{ids[0]}.json")


def run(spark: Any, folder: Path, uri: str, checkpoint: Path, **options: str) -> None:
    """Take in what is there, a file a batch, and end."""
    incoming = spark.readStream.schema("id BIGINT, name STRING").option("maxFilesPerTrigger", 1)
    writing = incoming.json(str(folder)).writeStream.format("lake").options(**options)
    query = writing.option("checkpointLocation", str(checkpoint)).trigger(availableNow=True).start(uri)
    query.awaitTermination()


def held(table: Table) -> list[int]:
    return sorted(table.refresh().scan(["id"]).read_all().column("id").to_pylist())


def test_batches_are_commits_and_a_batch_that_is_run_again_is_none(
    spark: Any, table: Table, tmp_path: Path
) -> None:
    """A driver that dies between its commit and its note of it runs the batch again. spec: COM-1"""
    incoming, checkpoint = tmp_path / "in", tmp_path / "checkpoint"
    drop_in(incoming, 1, 2)
    drop_in(incoming, 3)
    run(spark, incoming, table.uri, checkpoint)
    assert (held(table), table.version) == ([1, 2, 3], 3)
    for noted in ("1", ".1.crc"):  # the second batch: committed, and not noted
        (checkpoint / "commits" / noted).unlink()
    drop_in(incoming, 4)
    run(spark, incoming, table.uri, checkpoint)
    assert (checkpoint / "commits" / "1").exists(), "it was run again"
    assert (held(table), table.version) == ([1, 2, 3, 4], 4)
    assert len(list(table.snapshot.store.list("data/"))) == len(table.inspect.files()), "nothing is left over"
    shutil.rmtree(checkpoint)  # another query: it begins again, and its batches are others
    run(spark, incoming, table.uri, checkpoint)
    assert held(table) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert not table.verify().problems


def test_a_stream_makes_its_table_and_goes_on_while_versions_expire(spark: Any, tmp_path: Path) -> None:
    incoming, uri = tmp_path / "in", str(tmp_path / "new")
    drop_in(incoming, 1)
    stream = spark.readStream.schema("id BIGINT, name STRING").json(str(incoming))
    writing = stream.writeStream.format("lake").option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = writing.start(uri)
    try:
        query.processAllAvailable()
        table = lake.open(uri)
        assert held(table) == [1]
        table.append([{"id": 100, "name": "somebody else"}]).expire_versions(timedelta(0))
        drop_in(incoming, 2)
        query.processAllAvailable()
    finally:
        query.stop()
    assert held(table) == [1, 2, 100]
    assert not table.verify().problems


def test_mistakes_are_named(spark: Any, table: Table, tmp_path: Path) -> None:
    drop_in(tmp_path / "in", 1)
    with pytest.raises(Exception, match="writing knows no option 'idempotencywriter'"):
        run(spark, tmp_path / "in", table.uri, tmp_path / "checkpoint", idempotencyWriter="me")
    assert held(table) == []
