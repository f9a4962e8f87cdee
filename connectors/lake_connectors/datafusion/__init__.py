"""DataFusion over lake-format tables: SQL by table name, nearest neighbours through the index, exact filters.

>>> from lake_connectors.datafusion import connect                        # doctest: +SKIP
>>> ctx = connect().attach("./lake/items")                                # doctest: +SKIP
>>> ctx.sql("SELECT title FROM knn('items', $q, 10) WHERE price < 10", param_values={"q": q})     # doctest: +SKIP

How a statement reaches a table (one module each):

- ``context`` is the session users hold; it plans statements and settles the searches in them;
- ``catalog`` hands out a table anew for every mention of it, at the version of the moment;
- ``datasets`` are what DataFusion reads then: parts of a scan, or rows in distance order (``predicates``, ``types``);
- ``plans`` finds searches in an optimised plan, and the filters above them that DataFusion evaluates itself;
- ``conditions`` says these filters to the table, where they mean the same there;
- ``joins`` says which keys joins let through, which DataFusion makes of ``id IN (SELECT …)``;
- ``settling`` finds out how many rows a search has to hand out where they do not;
- ``functions`` are distances as SQL functions.

Needs the extra ``lake-format[datafusion]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import datafusion as _datafusion
except ImportError as _error:
    raise UnsupportedError(
        "DataFusion is not installed", fix="pip install 'lake-format[datafusion]'"
    ) from _error

from lake_connectors.adapter.following import Pushdown
from lake_connectors.datafusion.context import LakeContext, connect

__all__ = ["LakeContext", "Pushdown", "connect"]

del _datafusion
