"""Tables into connections and out again: the one place that changes what a DuckDB connection knows."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import DuckDBPyConnection

from lake_connectors.adapter.following import Observer
from lake_connectors.adapter.names import default_name
from lake_connectors.adapter.opening import opened
from lake_connectors.duckdb import public
from lake_connectors.duckdb.gate import MARK_FUNCTION, mark_rows
from lake_connectors.duckdb.lateral import answer_type, vector_search
from lake_connectors.duckdb.macros import macros, vector_macro
from lake_connectors.duckdb.names import hidden_name, identifier, vector_function
from lake_connectors.duckdb.relations import Nearest, Nothing, Ranks, Relation, Rows
from lake_connectors.duckdb.showing import TableFollower, follow
from lake_format.errors import InvalidInputError, NotFoundError, UnsupportedError
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["WAY_VARIABLE", "Attachments", "attach", "attachments", "detach", "end_pending_result"]

WAY_VARIABLE = "LAKE_DUCKDB_INTERFACE"
"""Environment variable: ``public`` keeps to DuckDB's public API, ``sources`` insists on its scan sources."""

_WAYS = ("auto", "public", "sources")


@dataclass(slots=True)
class Attachments:
    """What is attached to one connection.

    Attributes
    ----------
    followers, tables
        By name in lower case, in the order attached.
    functions, macros
        What searches each table row by row, and the names that call it.
    schemas
        The columns each name was registered with.
    changes
        Grows with every attach and detach.
    """

    interface: str
    followers: dict[str, TableFollower] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    functions: dict[TableFollower, str] = field(default_factory=dict)
    macros: set[str] = field(default_factory=set)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    changes: int = 0

    @property
    def ranks_sql(self) -> str:
        """How the numbers of kept rows are read through this interface."""
        return str(_module(self.interface).RANKS_SQL)


_known: weakref.WeakKeyDictionary[DuckDBPyConnection, Attachments] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def attachments(con: DuckDBPyConnection, interface: str | None = None) -> Attachments:
    """What is attached to the connection."""
    with _lock:
        found = _known.get(con)
        if found is None:
            found = _known[con] = Attachments(_chosen(interface))
        elif interface not in (None, "auto", found.interface):
            raise InvalidInputError(
                f"this connection uses the {found.interface} interface already",
                fix="use one interface for all tables of a connection",
            )
        return found


def attach(
    con: Any,
    table: Table | str | os.PathLike[str],
    name: str | None = None,
    *,
    version: int | None = None,
    max_staleness: float = 0.0,
    storage_options: dict[str, str] | None = None,
    allow_external: AllowExternal | None = None,
    interface: str | None = None,
    observer: Observer | None = None,
) -> str:
    """Make a table readable by name on a DuckDB connection, and add ``knn``, ``lake`` and ``knn_vec`` to its SQL.

    ``SELECT … FROM name`` reads the table, with projection and exact filters pushed down.
    ``SELECT … FROM knn('name', vector, k) WHERE …`` returns the k nearest rows among those that match the WHERE,
    with ``_row_id`` and ``_distance``. A join chooses among these k rows, and so does a condition that asks other
    tables (``id IN (SELECT …)``); on a connection of :func:`connect` such a condition counts like any other.
    ``knn_vec(vector, k)`` serves LATERAL joins. ``lake('name')`` is the table with ``_row_id``.

    Parameters
    ----------
    con
        A DuckDB connection. Cursors are connections of their own.
    table
        A table, or where it is. A table opened at an older version stays there; any other is followed: each
        statement sees the newest version.
    name
        How SQL names it; by default the last part of the URI. Attaching a name again replaces it.
    version
        With a URI: that version, for good.
    max_staleness
        Seconds for which a version is taken for the newest without asking the store again.
    storage_options, allow_external
        With a URI: as for ``lake.open``.
    interface
        ``"sources"``, ``"public"`` or ``"auto"``; see :data:`WAY_VARIABLE`.
    observer
        Called with a :class:`Pushdown` whenever a statement reads the table.

    Returns
    -------
    str
        The name.

    Raises
    ------
    InvalidInputError
        The name belongs to another table or view of the connection.
    NotFoundError
        There is no table at the URI.
    """
    raw = _raw(con)
    found = opened(table, version, storage_options, allow_external)
    chosen = default_name(found.uri) if name is None else str(name)
    if not chosen.strip():
        raise InvalidInputError("the table's name is empty", fix="give name=")
    with _lock:
        state = attachments(raw, interface)
        follower = follow(
            chosen, found, max_staleness, observer
        )  # may refuse a type: before the old one goes
        if chosen.lower() in state.followers:
            detach(raw, chosen)
        else:
            _refuse_taken(raw, chosen)
        put(raw, state, follower)
        state.tables[chosen.lower()] = found
    return chosen


def detach(con: Any, name: str) -> None:
    """Take an attached table out of a connection; the table itself is not touched.

    Raises
    ------
    NotFoundError
        No such table is attached.
    """
    raw = _raw(con)
    with _lock:
        state = attachments(raw)
        follower = state.followers.pop(name.lower(), None)
        if follower is None:
            names = ", ".join(one.name for one in state.followers.values()) or "none"
            raise NotFoundError(f"no table {name!r} is attached to this connection", fix=f"attached: {names}")
        end_pending_result(raw)
        raw.unregister(follower.name)
        for kind in _relations(follower):
            raw.unregister(hidden_name(kind, follower.name))
        state.schemas.pop(name.lower(), None)
        state.tables.pop(name.lower(), None)
        state.functions.pop(follower, None)
        _define(raw, state)


def put(raw: DuckDBPyConnection, state: Attachments, follower: TableFollower) -> None:
    """Register a table's relations and functions on a connection."""
    register(raw, state, follower)
    state.followers[follower.name.lower()] = follower
    _mark_function(raw)
    _define(raw, state)


def register(raw: DuckDBPyConnection, state: Attachments, follower: TableFollower) -> None:
    """Register a table's relations, in place of those registered before; ends a result still being fetched."""
    end_pending_result(raw)
    module = _module(state.interface)
    rows = Rows(follower, dictionaries=module.DICTIONARIES)
    raw.register(follower.name, module.plug(rows))
    for kind, relation in _relations(follower).items():
        raw.register(hidden_name(kind, follower.name), module.plug(relation))
    state.schemas[follower.name.lower()] = follower.shown.rows


def end_pending_result(raw: DuckDBPyConnection) -> None:
    """Give up a result still being fetched, as the next ``execute`` would; DuckDB refuses changes until then."""
    raw.execute("SELECT NULL").fetchall()


def _relations(follower: TableFollower) -> dict[str, Relation]:
    nearest = Nearest(follower)
    return {"rows": nearest, "ranks": Ranks(nearest), "nothing": Nothing(follower)}


def _define(raw: DuckDBPyConnection, state: Attachments) -> None:
    """Define macros for what is attached now."""
    state.changes += 1
    names = [follower.name for follower in state.followers.values()]
    statements = macros(names, state.ranks_sql)
    wanted = {vector_function(name): follower for name, follower in state.followers.items()}
    if state.followers:
        wanted[vector_function(None)] = next(iter(state.followers.values()))
    statements += [vector_macro(name, _search_function(raw, state, one)) for name, one in wanted.items()]
    statements += [f"DROP MACRO IF EXISTS temp.{identifier(name)}" for name in state.macros - set(wanted)]
    for statement in statements:
        raw.execute(statement)
    state.macros = set(wanted)


_function_numbers = itertools.count(1)


def _search_function(raw: DuckDBPyConnection, state: Attachments, follower: TableFollower) -> str:
    """The function that searches a table row by row.

    Functions belong to a database, macros to a connection: each function has a name of its own in the process, and
    cursors share it with the connection they come from.
    """
    known = state.functions.get(follower)
    if known is None:
        known = f"lake_search_{next(_function_numbers)}"
        answer = answer_type(follower.snapshot.schema)
        search = vector_search(follower, answer)
        raw.create_function(known, search, ["FLOAT[]", "BIGINT"], _sql_type(raw, answer), type="arrow")
        state.functions[follower] = known
    return known


def _sql_type(raw: DuckDBPyConnection, kind: Any) -> Any:
    empty = pa.table({"answer": pa.array([], kind)})
    return raw.from_arrow(empty).types[0]


def _mark_function(raw: DuckDBPyConnection) -> None:
    try:
        raw.create_function(
            MARK_FUNCTION, mark_rows, ["BIGINT[2]"], "BIGINT", type="arrow", side_effects=True
        )
    except (duckdb.CatalogException, duckdb.NotImplementedException) as error:
        # Functions belong to the database: this or another connection to it has been here before.
        if "already" not in str(error):
            raise


def _refuse_taken(raw: DuckDBPyConnection, name: str) -> None:
    probe = raw.cursor()
    try:
        taken = probe.execute(
            "SELECT 1 FROM information_schema.tables WHERE lower(table_name) = lower(?) "
            "AND table_catalog = current_database() AND table_schema = current_schema()",
            [name],
        ).fetchone()
    finally:
        probe.close()
    if taken:
        raise InvalidInputError(
            f"this connection has a table or view {name!r} already", fix="give another name="
        )


def _raw(con: Any) -> DuckDBPyConnection:
    raw = getattr(con, "duckdb", con)
    if not isinstance(raw, DuckDBPyConnection):
        raise InvalidInputError(
            f"attach() takes a DuckDB connection, not {type(con).__name__}",
            fix="make one with duckdb.connect()",
        )
    return raw


def _chosen(interface: str | None) -> str:
    """Which interface to use, after looking at what is installed."""
    wanted = interface or os.environ.get(WAY_VARIABLE) or "auto"
    if wanted not in _WAYS:
        raise InvalidInputError(f"unknown interface {wanted!r}", fix=f"interfaces are {', '.join(_WAYS)}")
    if wanted == "public":
        return "public"
    try:
        from lake_connectors.duckdb import plugged  # noqa: PLC0415 - private to DuckDB, may be missing

        problem = plugged.check_contract()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return "sources"
    if wanted == "sources":
        raise UnsupportedError(
            f"DuckDB {duckdb.__version__} has other scan sources: {problem}", fix="use 'public'"
        )
    return "public"


def _module(interface: str) -> Any:
    if interface == "public":
        return public
    from lake_connectors.duckdb import plugged  # noqa: PLC0415

    return plugged
