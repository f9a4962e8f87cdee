"""Spark on this machine alone, for the notebook: two worker threads, nothing listening beyond loopback.

On a cluster the session is there already, and ``lake_spark.register(session)`` is all it takes.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from lake_connectors import spark as lake_spark

__all__ = ["start"]

SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.python.filterPushdown.enabled": "true",  # off by default: Spark would filter the rows itself
    "spark.log.level": "ERROR",
}


def start(name: str, *modules: str) -> SparkSession:
    """A session that knows ``lake``, whose workers run this Python and can import these files."""
    # Spark 4.3 says so at every step; what is used here is compared with what is committed
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas >= 3")
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").appName(name)
    for setting, value in SETTINGS.items():
        builder = builder.config(setting, value)
    with _errors_into("spark.log"):
        session = builder.getOrCreate()
    for module in modules:
        session.sparkContext.addPyFile(module)
    return lake_spark.register(session)


@contextmanager
def _errors_into(path: str) -> Iterator[None]:
    """What is started meanwhile logs into a file for as long as it runs: Java's greetings are no result."""
    kept = os.dup(2)
    with open(path, "ab") as log:
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
