"""What an engine under test brings: how it reads a table, its own copy to compare with, and what it claims."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import pyarrow as pa

import lake_format as lake

Support = Literal["pushed", "answered", "refused", "absent"]
"""The table does it; the engine does it over what the table hands out; a clear error; there is no such thing."""

CAPABILITIES: Mapping[str, str] = {
    "types": "every column type it has a type for, others refused by name",
    "projection": "only the columns wanted are read",
    "filter": "comparisons, IN, BETWEEN, NULL tests, AND, OR, NOT",
    "odd filter": "filters the table does not know (LIKE, functions)",
    "limit": "reading stops when enough rows have come",
    "knn": "nearest neighbours by function",
    "knn filter": "… among the rows that match a filter",
    "knn odd filter": "… also one that the table does not know: still k rows",
    "order by": "ORDER BY distance LIMIT k",
    "knn join": "nearest neighbours of every row of a query",
    "new rows": "the next statement sees what was committed",
    "new columns": "… and columns added or dropped since",
    "version": "an older version",
    "append": "writes rows in one commit",
    "evolution": "any version after columns were added, dropped, renamed, widened, filled",
    "imported": "an Iceberg table where it lies: columns that changed, deleted rows, vectors, later snapshots",
    "mapped vectors": "local vectors arrive as the mapped file, not copied",
    "mistakes": "named in the engine's own error, lost files too; the session goes on with the table it had",
}


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a table is, for engines that open it themselves."""

    uri: str
    storage_options: Mapping[str, str] = field(default_factory=dict)
    version: int | None = None
    allow_external: tuple[str, ...] = ()

    def open(self) -> lake.Table:
        """The table, opened as users do."""
        return lake.open(
            self.uri,
            self.version,
            storage_options=dict(self.storage_options),
            allow_external=self.allow_external,
        )


class Session(Protocol):
    """One engine with one table in reach, called ``items``."""

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        """Rows as the engine returns them; ``where`` is a condition of :data:`conformance.filters.FILTERS`."""
        ...

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """The same over the engine's own copy of the rows."""
        ...

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        """Ids and distances of the nearest rows, nearest first."""
        ...

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        """Ids by ``ORDER BY distance LIMIT k``, rows without a vector left out."""
        ...

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
        """Ids of the nearest rows of each of several vectors, in one statement."""
        ...

    def append(self, rows: pa.Table) -> None:
        """Write rows to the table."""
        ...

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows a batch at a time, as the engine hands them out; nothing is read before the first is asked for."""
        ...

    def attach(self, table: Reached) -> None:
        """Let ``items`` be another table from now on; where that is refused it stays what it was."""
        ...

    def attach_with(self, **options: object) -> None:
        """Reach the table again, with an option more."""
        ...

    def search(self, vector: object, k: object = 3, **options: object) -> object:
        """A search whose arguments need not be right; options are some of :attr:`EngineUnderTest.options`."""
        ...

    def search_by_a_column(self, name: str) -> object:
        """A search whose vector is a column of the rows beside it, where the engine has one vector a search."""
        ...

    def ask_with_an_unknown_option(self, name: str) -> object:
        """A read or search with an option that does not exist."""
        ...

    def maps_vectors(self) -> bool:
        """Whether the values of column ``vec`` lie in a mapped file when the engine gets them."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class EngineUnderTest(Protocol):
    """An engine."""

    name: str
    support: Mapping[str, Support]
    slow: bool
    """Whether the normal run asks it a part of the questions only."""
    differs: Mapping[str, str]
    """Filters for which it selects other rows here than from its own copy, and why; a test holds that they differ."""
    errors: tuple[type[BaseException], ...]
    """What the engine raises, in its own types."""
    options: frozenset[str]
    """What may be said in a search, of metric, recall, column, exact, table; and option, if by name."""
    words: Mapping[str, str]
    """Patterns of refusals in words other than the table's, by the name of the mistake."""

    def owns(self, error: BaseException) -> bool:
        """Whether an error of one of these types is the engine's own, and not one that slipped through it."""
        ...

    def open(self, table: Reached, copy: pa.Table | None = None) -> Session:
        """Reach a table; ``copy`` are its rows, for :meth:`Session.copied`."""
        ...

    def takes(self, kind: pa.DataType) -> bool:
        """Whether it has a type for a column of this type; others it must refuse by name."""
        ...


def supported(engine: EngineUnderTest, capability: str) -> Any:
    """Whether the engine answers at all."""
    assert capability in CAPABILITIES
    return engine.support[capability] in ("pushed", "answered")
