"""A table as an engine's statements see it: the version each is bound to, and what observers are told of a read."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa

from lake_connectors.adapter.requests import NearestRequest, ReadRequest, mentions
from lake_format.engine import Engine
from lake_format.log import VersionLog
from lake_format.snapshot import Snapshot
from lake_format.table import Table

__all__ = ["Follower", "Observer", "Pushdown"]

Shown = TypeVar("Shown")


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


class Follower(Generic[Shown]):
    """A table as statements see it: each is bound to the newest version, or always to the same one.

    Parameters
    ----------
    name
        How statements name it.
    table
        Is not moved: its log is followed from the version it is at.
    show
        Makes of the table's schema the forms in which the engine is shown it; called once per schema.
    max_staleness
        Seconds for which the version seen last is taken for the newest without asking the store.
    hidden
        Names of the connector's own columns, of which observers are not told.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        show: Callable[[pa.Schema], Shown],
        *,
        max_staleness: float = 0.0,
        observer: Observer | None = None,
        hidden: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.engine: Engine = table.engine
        self._log = None if table._pinned else VersionLog(table.snapshot.store, time.sleep)
        self._snapshot = table.snapshot
        self._show = show
        self._schema = self._snapshot.schema
        self._shown = show(self._schema)
        self._max_staleness = max_staleness
        self._asked = float("-inf")
        self._observer = observer
        self._hidden = hidden
        self._lock = threading.Lock()

    @property
    def observer(self) -> Observer | None:
        """Who is told of reads."""
        return self._observer

    @property
    def snapshot(self) -> Snapshot:
        """The version bound last."""
        return self._snapshot

    @property
    def shown(self) -> Shown:
        """Its schema as the engine is shown it."""
        return self._shown

    def bind(self) -> Snapshot:
        """Move to the newest version and return it."""
        with self._lock:
            if self._log is not None and time.monotonic() - self._asked >= self._max_staleness:
                version = self._log.newest_there(self._snapshot.version)
                self._asked = time.monotonic()
                if version.commit_id != self._snapshot.version.commit_id:
                    self._snapshot = Snapshot(self._snapshot.store, version, self._snapshot.manifests)
                    if not version.schema.equals(self._schema, check_metadata=True):
                        self._schema, self._shown = version.schema, self._show(version.schema)
            return self._snapshot

    def twin(self) -> Follower[Shown]:
        """The same table for another connection, which moves on by itself."""
        twin = copy.copy(self)
        twin._lock = threading.Lock()
        return twin

    def tell(self, snapshot: Snapshot, request: ReadRequest, nearest: NearestRequest | None = None) -> None:
        """Report a read to the observer, if there is one."""
        if self._observer is None:
            return
        terms = (term for term in request.predicates if not any(mentions(term, one) for one in self._hidden))
        self._observer(
            Pushdown(
                table=self.name,
                version=snapshot.version.version,
                columns=tuple(name for name in request.columns if name not in self._hidden),
                predicates=tuple(str(term) for term in terms),
                nearest=nearest,
            )
        )
