"""Spark over lake-format tables: a data source that reads and writes them, and neighbours as a table function.

>>> from lake_connectors import spark as lake_spark                            # doctest: +SKIP
>>> lake_spark.register(session)                                               # doctest: +SKIP
>>> session.read.format("lake").load("./lake/items").where("price < 10")       # doctest: +SKIP
>>> frame.write.format("lake").mode("append").save("./lake/items")             # doctest: +SKIP
>>> stream.writeStream.format("lake").option("checkpointLocation", place).start("./lake/items")  # doctest: +SKIP
>>> session.sql("SELECT * FROM lake_knn(path => './lake/items', q => array(1f, 0f), k => 10)")  # doctest: +SKIP

``source`` is the data source (Spark's own interface in Python), ``reading`` what tasks read, ``fast`` the quickest
way to read, ``functions`` the table function, ``jobs`` work spread over executors, ``types`` and ``predicates`` what
Spark is shown and asks. Nothing compiled, nothing to put on a class path.

Needs the extra ``lake-format[spark]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import pyspark as _pyspark
except ImportError as _error:
    raise UnsupportedError("Spark is not installed", fix="pip install 'lake-format[spark]'") from _error

from lake_connectors.spark.fast import map_batches, read
from lake_connectors.spark.functions import register
from lake_connectors.spark.jobs import add_column, create_index, nearest_join
from lake_connectors.spark.source import LakeSource

__all__ = ["LakeSource", "add_column", "create_index", "map_batches", "nearest_join", "read", "register"]

del _pyspark
