"""One local Spark session for all tests, started when first asked for: starting takes seconds."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import cache
from typing import Any

import pytest


def need_java() -> None:
    """Pass a test over where Spark cannot start."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs Java 17, which is not on this machine")


@cache
def session() -> Any:
    """Two worker threads, a failed task tried once more, no network but loopback, ``lake`` registered."""
    need_java()
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    from lake_connectors import spark as lake_spark

    builder = SparkSession.builder.master("local[2, 2]").appName("lake-format tests")
    options = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": tempfile.mkdtemp(prefix="lake-spark-"),
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.python.filterPushdown.enabled": "true",
        "spark.driver.memory": "2g",
        "spark.log.level": "OFF",
    }
    for name, value in options.items():
        builder = builder.config(name, value)
    return lake_spark.register(builder.getOrCreate())
