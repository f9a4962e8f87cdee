"""Iceberg tables as lake-format tables, and the other way round: files stay where they are, nothing is copied.

>>> from lake_connectors import iceberg                                                     # doctest: +SKIP
>>> table = iceberg.import_table(catalog.load_table("shop.items"), "./lake/items")          # doctest: +SKIP
>>> table.scan(where="price < 10")                                                          # doctest: +SKIP
>>> iceberg.publish(lake.open("./lake/open")).metadata_location                             # doctest: +SKIP
'file:///lake/open/metadata/v1.metadata.json'

Needs the extra ``lake-format[iceberg]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import pyiceberg as _pyiceberg
except ImportError as _error:
    raise UnsupportedError("pyiceberg is not installed", fix="pip install 'lake-format[iceberg]'") from _error

from lake_connectors.iceberg.importing import import_table
from lake_connectors.iceberg.publication import Publication, publish
from lake_connectors.iceberg.refreshing import refresh_table

__all__ = ["Publication", "import_table", "publish", "refresh_table"]

del _pyiceberg
