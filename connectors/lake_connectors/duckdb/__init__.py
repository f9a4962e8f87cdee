"""DuckDB over lake-format tables: SQL by table name, nearest neighbours through the index, exact filters.

>>> from lake_connectors.duckdb import connect                            # doctest: +SKIP
>>> con = connect()                                                       # doctest: +SKIP
>>> con.attach("./lake/items")                                            # doctest: +SKIP
>>> con.execute("SELECT * FROM knn('items', ?, 10) WHERE price < 10", [q])      # doctest: +SKIP

How a statement reaches a table (one module each):

- ``connection`` takes SQL text; ``mentions`` finds the tables in it, ``folders`` attaches what is not yet;
  ``rewriting`` finds ``ORDER BY distance LIMIT k`` (``recognition``), ``inserting`` runs statements that write;
- ``asking`` asks for the keys of ``id IN (SELECT …)`` beforehand, so that the search knows them;
- ``attaching`` puts a table into a connection: relations under hidden names, and the macros of ``macros``;
- ``relations`` answers what DuckDB asks of them, in the types of ``showing``, through ``streams``;
- ``gate`` tells when enough of them passed DuckDB's own filters;
- ``plugged`` (DuckDB's scan sources) or ``public`` (public API only) carries a relation into DuckDB.

Needs the extra ``lake-format[duckdb]``.
"""

from __future__ import annotations

from lake_format.errors import UnsupportedError

try:
    import duckdb as _duckdb
except ImportError as _error:
    raise UnsupportedError("DuckDB is not installed", fix="pip install 'lake-format[duckdb]'") from _error

from lake_connectors.adapter.following import Pushdown
from lake_connectors.duckdb.attaching import attach, detach
from lake_connectors.duckdb.connection import LakeConnection, connect

__all__ = ["LakeConnection", "Pushdown", "attach", "connect", "detach"]

del _duckdb
