"""A table as statements see it: the version each is bound to, and its schema as DuckDB is shown it.

Also the words in which relations are asked to read, and what is told about it. This module must not import duckdb.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lake_connectors.duckdb.gate import GATE_TYPE
from lake_connectors.duckdb.token import NearestRequest
from lake_connectors.duckdb.types import declared_schema
from lake_engines.predicate.tree import Column, Expression, Rules, walk
from lake_format.engine import Engine
from lake_format.log import VersionLog
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD
from lake_format.snapshot import Snapshot
from lake_format.table import Table

__all__ = ["GATE", "KNN", "RANK", "Follower", "Observer", "Pushdown", "ReadRequest", "Shown", "mentions"]

KNN, GATE, RANK = "_knn", "_gate", "_rank"
"""Hidden columns: the request for neighbours, a row's way through the gate, a kept row's number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushdown:
    """What reached a table when a statement ran: for tests, logs and tuning.

    Attributes
    ----------
    columns
        Columns of the table that were read for the result.
    predicates
        Predicates that the table answered itself, as SQL.
    nearest
        The request, where nearest neighbours were asked for.
    """

    table: str
    version: int
    columns: tuple[str, ...]
    predicates: tuple[str, ...]
    nearest: NearestRequest | None = None


Observer = Callable[[Pushdown], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Rows wanted from a relation.

    Attributes
    ----------
    columns
        Names in order; may be empty, then only the number of rows counts.
    predicates
        What the relation accepted, all to be TRUE.
    rest
        A pyarrow expression that rows must pass too, for what ``predicates`` could not say of it.
    """

    columns: tuple[str, ...]
    predicates: tuple[Expression, ...]
    rules: Rules
    rest: pc.Expression | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A table's schema in the forms in which its relations show it to DuckDB; made once per schema.

    Attributes
    ----------
    table
        As the version has it, field ids included.
    rows, hidden, found
        The table's own columns; with the hidden ones before them; with those that knn() shows after them.
    """

    table: pa.Schema
    rows: pa.Schema
    hidden: pa.Schema
    found: pa.Schema

    @classmethod
    def of(cls, schema: pa.Schema) -> Shown:
        """The forms of a table's schema."""
        rows = declared_schema(schema)
        internal = (pa.field(KNN, pa.string()), pa.field(GATE, GATE_TYPE))
        open_ = (pa.field(ROW_ID, ROW_ID_FIELD.type), pa.field(DISTANCE, DISTANCE_FIELD.type))
        return cls(schema, rows, pa.schema([*internal, *open_, *rows]), pa.schema([*rows, *open_]))


class Follower:
    """A table as statements see it: each is bound to the newest version, or always to the same one.

    Parameters
    ----------
    table
        Is not moved: its log is followed from the version it is at.
    max_staleness
        Seconds for which the version seen last is taken for the newest without asking the store.
    """

    def __init__(
        self, name: str, table: Table, max_staleness: float = 0.0, observer: Observer | None = None
    ) -> None:
        self.name = name
        self.engine: Engine = table.engine
        self._log = None if table._pinned else VersionLog(table.snapshot.store, time.sleep)
        self._snapshot = table.snapshot
        self._shown = Shown.of(self._snapshot.schema)
        self._max_staleness = max_staleness
        self._asked = float("-inf")
        self._observer = observer
        self._lock = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        """The version bound last."""
        return self._snapshot

    @property
    def shown(self) -> Shown:
        """Its schemas."""
        return self._shown

    def bind(self) -> Snapshot:
        """Move to the newest version and return it."""
        with self._lock:
            if self._log is not None and time.monotonic() - self._asked >= self._max_staleness:
                version = self._log.latest_from(self._snapshot.version)
                self._asked = time.monotonic()
                if version.commit_id != self._snapshot.version.commit_id:
                    self._snapshot = Snapshot(self._snapshot.store, version, self._snapshot.manifests)
                    if not version.schema.equals(self._shown.table, check_metadata=True):
                        self._shown = Shown.of(version.schema)
            return self._snapshot

    def twin(self) -> Follower:
        """The same table for another connection, which moves on by itself."""
        twin = copy.copy(self)
        twin._lock = threading.Lock()
        return twin

    def tell(self, snapshot: Snapshot, request: ReadRequest, nearest: NearestRequest | None = None) -> None:
        """Report a read to the observer, if there is one."""
        if self._observer is not None:
            hidden = {KNN, GATE}
            self._observer(
                Pushdown(
                    table=self.name,
                    version=snapshot.version.version,
                    columns=tuple(name for name in request.columns if name not in hidden),
                    predicates=tuple(str(term) for term in request.predicates if not mentions(term, KNN)),
                    nearest=nearest,
                )
            )


def mentions(predicate: Expression, column: str) -> bool:
    """Whether a predicate reads a column."""
    return any(isinstance(node, Column) and node.path[0] == column for node in walk(predicate))
