"""A driver process: runs the jobs it is told on its standard input on a cluster, and answers each with a line.

A fault is struck by a task itself, once: whoever first creates the file ``mark``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from lake_connectors import spark as lake_spark

SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.executor.cores": "1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.python.filterPushdown.enabled": "true",
    "spark.log.level": "ERROR",
}


def ids(spark: SparkSession, uri: str, where: str = "true") -> list[int]:
    """The ids of the rows that match, as the data source and the quickest way both read them."""
    found = sorted(row.id for row in spark.read.format("lake").load(uri).where(where).select("id").collect())
    fast = lake_spark.read(spark, uri, columns=["id"], where=where)
    assert sorted(row.id for row in fast.collect()) == found
    return found


def append(spark: SparkSession, uri: str, start: int, stop: int, **options: Any) -> None:
    """Append the rows of these ids by two tasks."""
    _write(_frame(spark, start, stop, options.get("fault"), options.get("mark", "")), uri, **options)


def add_column(spark: SparkSession, uri: str, mark: str) -> None:
    """Fill a column; one executor dies of it."""
    lake_spark.add_column(spark, uri, "twice", pa.int64(), partial(_twice, mark), inputs=["id"])


def create_index(spark: SparkSession, uri: str, **options: Any) -> None:
    """Build an index of column ``vec``."""
    lake_spark.create_index(spark, uri, "vec", **options)


def _twice(mark: str, batch: pa.RecordBatch) -> pa.Array:
    _strike("executor", mark)
    return pa.array([2 * one for one in batch.column("id").to_pylist()], pa.int64())


def _frame(spark: SparkSession, start: int, stop: int, fault: str | None, mark: str) -> DataFrame:
    middle = (start + stop) // 2

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.slice(0, 1)
            if fault is not None and batch.column("id")[0].as_py() >= middle:
                _strike(fault, mark)
            yield batch.slice(1)

    return spark.range(start, stop, numPartitions=2).mapInArrow(rows, "id bigint")


def _write(frame: DataFrame, uri: str, mode: str = "append", job: int | None = None, **_options: Any) -> None:
    writer = frame.write.format("lake").mode(mode)
    if job is not None:
        writer = writer.option("idempotencyWriter", "job").option("idempotencySequence", job)
    writer.save(uri)


def _strike(fault: str, mark: str) -> None:
    """End this process, or the executor it belongs to, or wait; but once."""
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    if fault == "python":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "executor":  # a process of Python's is forked by another, which the executor has started
        fields = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
        os.kill(int(fields[1]), signal.SIGKILL)
    time.sleep(600)


JOBS: dict[str, Callable[..., Any]] = {job.__name__: job for job in (ids, append, add_column, create_index)}


def main(master: str, cores: str) -> None:
    """Run what is asked until nothing more is."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints does not answer
    builder = SparkSession.builder.master(master).appName("lake-format cluster tests")
    builder = builder.config("spark.cores.max", cores)
    for name in ("PYTHONPATH", "PYSPARK_PYTHON"):
        builder = builder.config(f"spark.executorEnv.{name}", os.environ[name])
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    spark = lake_spark.register(builder.getOrCreate())
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer: tuple[bool, Any] = True, JOBS[name](spark, **arguments)
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            answer = False, f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
