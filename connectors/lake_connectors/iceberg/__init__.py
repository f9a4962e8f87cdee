"""Iceberg tables as lake-format tables: their Parquet files stay where they are, nothing is copied or changed.

>>> from lake_connectors import iceberg                                                     # doctest: +SKIP
>>> table = iceberg.import_table(catalog.load_table("shop.items"), "./lake/items")          # doctest: +SKIP
>>> table.scan(where="price < 10")                                                          # doctest: +SKIP

Needs the extra ``lake-format[iceberg]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import pyiceberg as _pyiceberg
except ImportError as _error:
    raise UnsupportedError("pyiceberg is not installed", fix="pip install 'lake-format[iceberg]'") from _error

from lake_connectors.iceberg.importing import import_table
from lake_connectors.iceberg.refreshing import refresh_table

__all__ = ["import_table", "refresh_table"]

del _pyiceberg
