"""Polars over lake-format tables: lazy frames whose columns, filters and limit are answered by the table.

>>> from lake_connectors import polars as lake_polars                         # doctest: +SKIP
>>> lake_polars.scan("./lake/items").filter(pl.col("price") < 10).collect()   # doctest: +SKIP

``pl.scan_pyarrow_dataset(table)`` works too; it asks in Arrow's terms (where NaN is not greater than numbers, as it
is in Polars), knows no LIMIT, and stays at the version the table object reads.

Needs the extra ``lake-format[polars]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import polars as _polars
except ImportError as _error:
    raise UnsupportedError("Polars is not installed", fix="pip install 'lake-format[polars]'") from _error

from lake_connectors.polars.scanning import scan

__all__ = ["scan"]

del _polars
