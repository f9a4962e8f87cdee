"""The connection users hold: DuckDB's own, which also puts the index under ``ORDER BY distance LIMIT k``."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self

import duckdb
from duckdb import DuckDBPyConnection

from lake_connectors.adapter.following import Observer
from lake_connectors.duckdb.asking import keys_asked
from lake_connectors.duckdb.attaching import attach, attachments, detach, end_pending_result, put, register
from lake_connectors.duckdb.conditions import given_by_name
from lake_connectors.duckdb.folders import Folder, Resolver
from lake_connectors.duckdb.handing import Recipe
from lake_connectors.duckdb.inserting import Insertion, insertion, write
from lake_connectors.duckdb.plans import Plans
from lake_connectors.duckdb.rewriting import Rewriter
from lake_engines.predicate.tree import And
from lake_format.errors import LakeError, NotFoundError
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["LakeConnection", "connect"]


def connect(
    database: str | os.PathLike[str] = ":memory:",
    read_only: bool = False,
    config: dict[str, Any] | None = None,
    *,
    interface: str | None = None,
) -> LakeConnection:
    """Open a DuckDB database; parameters as of ``duckdb.connect``.

    Parameters
    ----------
    interface
        How tables reach DuckDB, see :func:`attach`.

    Returns
    -------
    LakeConnection
        Everything a DuckDB connection does, ``attach`` and ``detach``, and searches recognised in SQL.
    """
    return LakeConnection(duckdb.connect(os.fspath(database), read_only, config or {}), interface=interface)


class LakeConnection:
    """A DuckDB connection to which tables are attached. What is not here is the DuckDB connection's own.

    Statements like ``SELECT … FROM items WHERE … ORDER BY array_distance(vec, ?) LIMIT 10`` use the table's index;
    the result is that of DuckDB's own evaluation, up to the recall of the index.

    ``FROM knn(…) WHERE id IN (SELECT …)`` returns k rows where k match, whatever tables the WHERE asks. Two kinds of
    subqueries choose among the k nearest instead: those that ask the statement around, for which there is no one
    search, and, under a JOIN's right side, those whose columns do not say which table they are of.

    Pass vectors as parameters of :meth:`execute`: a search that is run again with another vector costs the least, as
    DuckDB then keeps its plan, as a prepared statement of this connection named ``lake_plan_…``.

    Attributes
    ----------
    duckdb
        The connection behind this one.
    """

    def __init__(self, con: DuckDBPyConnection, *, interface: str | None = None) -> None:
        self.duckdb = con
        self._state = attachments(con, interface)
        self._resolver = Resolver(con, self._state)
        self._plans = Plans(con)
        self._rewriter = Rewriter(con.cursor(), self._state, self._resolver, self._plans)
        self._lock = threading.RLock()

    # --- tables -------------------------------------------------------------------------------------------

    def attach(
        self,
        table: Table | str | os.PathLike[str],
        name: str | None = None,
        *,
        version: int | None = None,
        max_staleness: float = 0.0,
        storage_options: dict[str, str] | None = None,
        allow_external: AllowExternal | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Make a table readable by name; see :func:`lake_connectors.duckdb.attach`."""
        attach(
            self.duckdb,
            table,
            name,
            version=version,
            max_staleness=max_staleness,
            storage_options=storage_options,
            allow_external=allow_external,
            observer=observer,
        )
        return self

    def attach_folder(
        self,
        uri: str | os.PathLike[str],
        name: str = "lake",
        *,
        max_staleness: float = 0.0,
        storage_options: dict[str, str] | None = None,
        allow_external: AllowExternal | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Make all tables of a folder readable as ``name.table``, those that are made later too.

        ``CREATE TABLE name.table AS SELECT …`` makes a table in it. Tables are opened when first mentioned.
        """
        self._resolver.folders[name.lower()] = Folder(
            uri=os.fspath(uri),
            max_staleness=max_staleness,
            storage_options=storage_options,
            allow_external=allow_external,
            observer=observer,
        )
        return self

    def detach(self, name: str) -> Self:
        """Take an attached table out again."""
        detach(self.duckdb, name)
        self._plans.forget()
        return self

    # --- statements ---------------------------------------------------------------------------------------

    def execute(self, query: object, parameters: object = None) -> Self:
        """Run a statement, as DuckDB's ``execute``; INSERT and CREATE TABLE AS may write to tables of a lake."""
        if (what := self._insertion(query)) is not None:
            return self._insert(what, sys._getframe(1), parameters)
        text, left = query, parameters
        if isinstance(query, str) and self._has_tables:
            with self._rewriting() as rewriter:
                text, left, recipe = rewriter.at_once(query, parameters)
                if recipe is not None:  # its request is handed over to this run and no other
                    if recipe.asked:
                        self._tell_keys(recipe, parameters)
                    if not self._plans.run(recipe):
                        _seen_from(sys._getframe(1), self.duckdb.execute, text, *_given(left))
                    return self
        _seen_from(sys._getframe(1), self.duckdb.execute, text, *_given(left))
        return self

    def executemany(self, query: object, parameters: object = None) -> Self:
        """Run a statement once per parameter list, as DuckDB's ``executemany``."""
        _seen_from(sys._getframe(1), self.duckdb.executemany, self._ready(query), *_given(parameters))
        return self

    def sql(self, query: object, **options: Any) -> Any:
        """A relation over a query, as DuckDB's ``sql``."""
        if (what := self._insertion(query)) is not None:
            self._insert(what, sys._getframe(1), options.pop("params", None))
            return None
        ready = self._ready(query, options.get("params"))
        return _seen_from(sys._getframe(1), self.duckdb.sql, ready, **options)

    query = sql
    from_query = sql

    def cursor(self) -> LakeConnection:
        """A connection to the same database, with the same tables attached."""
        with self._lock:
            twin = LakeConnection(self.duckdb.cursor(), interface=self._state.interface)
            for follower in self._state.followers.values():
                own = follower.twin()
                twin._state.functions[own] = self._state.functions[follower]
                put(twin.duckdb, twin._state, own)
            twin._state.tables.update(self._state.tables)
            twin._resolver.folders = self._resolver.folders
            return twin

    duplicate = cursor

    def close(self) -> None:
        """Close the connection."""
        self._rewriter.close()
        self.duckdb.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.duckdb, name)
        return _returning_self(self, found) if callable(found) else found

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.duckdb)})

    def __repr__(self) -> str:
        names = ", ".join(follower.name for follower in self._state.followers.values()) or "nothing"
        return f"LakeConnection({names} attached)"

    # --- inside -------------------------------------------------------------------------------------------

    def _insertion(self, query: object) -> Insertion | None:
        """What a statement writes to a table of a lake; None where it writes to nothing or to DuckDB's own."""
        what = insertion(query) if isinstance(query, str) else None
        if what is None:
            return None
        in_folder = self._resolver.folder_of(what.name) is not None
        attached = what.name.lower() in self._state.followers
        return what if in_folder or (attached and not what.creates) else None

    def _insert(self, what: Insertion, frame: FrameType, parameters: object) -> Self:
        """Run the query and append its rows, in one commit; the result is their number, as of DuckDB's INSERT."""
        with _as_duckdb_says():
            what.require_plain()
            if not what.creates:
                self._resolver.attached(what.name)  # nothing can be attached while rows are streamed
            query = self._ready(what.query, parameters)
            end_pending_result(self.duckdb)
            relation = _seen_from(frame, self.duckdb.sql, query, params=parameters)
            with relation.to_arrow_reader() as reader:
                rows = write(what, reader, self._resolver)
        self.duckdb.execute("SELECT ?::BIGINT AS Count", [rows])
        return self

    def _tell_keys(self, recipe: Recipe, parameters: object) -> None:
        """Ask for the keys that other tables let through, and add them to the request that is handed over."""
        request, given = recipe.handed.request, given_by_name(parameters)
        keys = keys_asked(self.duckdb, recipe.asked, given, self._state.followers)
        if request is not None and keys:
            recipe.handed.request = replace(request, condition=And(keys))

    def _ready(self, query: object, parameters: object = None) -> object:
        """The statement to run: rewritten where a search was recognised."""
        if not isinstance(query, str) or not self._has_tables:
            return query
        with self._rewriting() as rewriter:
            return rewriter(query, parameters)

    @property
    def _has_tables(self) -> bool:
        return bool(self._state.followers or self._resolver.folders)

    @contextmanager
    def _rewriting(self) -> Iterator[Rewriter]:
        """The rewriter, by one thread at a time and with the tables as DuckDB will see them."""
        with self._lock, _as_duckdb_says():
            if self._state.interface == "public":
                self._follow_columns()
            yield self._rewriter

    def _follow_columns(self) -> None:
        """Register tables again whose columns changed: a dataset's schema is kept by DuckDB from its first sight."""
        for name, follower in self._state.followers.items():
            follower.bind()
            if follower.shown.rows != self._state.schemas[name]:
                register(self.duckdb, self._state, follower)


@contextmanager
def _as_duckdb_says() -> Iterator[None]:
    """Our errors as DuckDB's, with our words."""
    try:
        yield
    except NotFoundError as error:
        raise duckdb.CatalogException(str(error)) from error
    except LakeError as error:
        raise duckdb.InvalidInputException(str(error)) from error


def _given(parameters: object) -> tuple[object, ...]:
    return () if parameters is None else (parameters,)


def _returning_self(con: LakeConnection, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, returning this connection where it returns the one behind."""

    def call(*arguments: Any, **options: Any) -> Any:
        result = method(*arguments, **options)
        return con if result is con.duckdb else result

    return call


_CALL = compile("_lake_call()", "<lake_connectors.duckdb>", "eval")


def _seen_from(frame: FrameType, method: Callable[..., Any], *arguments: object, **options: object) -> Any:
    """Call a method of DuckDB so that it finds the Python variables of ``frame``.

    DuckDB looks up ``FROM frame_of_mine`` in the innermost Python frame; that has to be the user's, not ours.
    """
    variables = {**frame.f_locals, "_lake_call": partial(method, *arguments, **options)}
    return eval(_CALL, frame.f_globals, variables)  # noqa: S307 - a constant
