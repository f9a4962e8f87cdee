"""What every engine is asked in vain: each mistake with the words of its refusal, in the engine's own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import pytest
from lake_rows import query

import lake_format as lake
from conformance.engine import EngineUnderTest, Session, supported

REACHING = (lake.LakeError, TypeError)
"""What a call of this project's own raises, by which a table is reached: Python itself refuses keywords."""

Kind = Literal["read", "search", "join", "option", "metric", "recall", "column", "exact", "table"]
"""What an engine must have for a mistake to be one: the last are options of its searches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """Something no engine can do.

    Attributes
    ----------
    name
        What is wrong; engines with words of their own have them under it.
    says
        A pattern that the refusal matches: it names the column, value or option.
    """

    name: str
    kind: Kind
    ask: Callable[[Session], object]
    says: str

    def may_be_made(self, engine: EngineUnderTest) -> bool:
        """Whether it can be written down for the engine."""
        if self.kind == "read":
            return True
        if self.kind == "join":
            return bool(supported(engine, "knn join"))
        return bool(supported(engine, "knn")) if self.kind == "search" else self.kind in engine.options


def _vector(component: float | None) -> list[float | None]:
    return [component, *query(1)[1:]]


MISTAKES = (
    Mistake(
        name="unknown column",
        kind="read",
        ask=lambda session: session.read(["id", "no_such_column"]),
        says="no_such_column",
    ),
    Mistake(
        name="unknown column in a filter",
        kind="read",
        ask=lambda session: session.read(["id"], "no_such_column > 1"),
        says="no_such_column",
    ),
    Mistake(
        name="unknown option",
        kind="option",
        ask=lambda session: session.ask_with_an_unknown_option("probes"),
        says="'probes'",
    ),
    Mistake(
        name="wrong dimension",
        kind="search",
        ask=lambda session: session.search([1.0, 2.0]),
        says=r"shape \(2,\), but column 'vec' has dimension 6",
    ),
    Mistake(
        name="text for a vector",
        kind="search",
        ask=lambda session: session.search("abc"),
        says=r"query is not a vector of numbers: .*'abc'",
    ),
    Mistake(
        name="NaN in a vector",
        kind="search",
        ask=lambda session: session.search(_vector(float("nan"))),
        says=r"query (vector )?holds .*NaN",
    ),
    Mistake(
        name="NULL in a vector",
        kind="search",
        ask=lambda session: session.search(_vector(None)),
        says=r"query (vector )?holds .*NaN",
    ),
    Mistake(
        name="column for a vector",
        kind="search",
        ask=lambda session: session.search_by_a_column("vec"),
        says=r"the query vector and k of a neighbour search must be constants or parameters",
    ),
    Mistake(
        name="column of text for a vector",
        kind="search",
        ask=lambda session: session.search_by_a_column("title"),
        says=r"the query vector and k of a neighbour search must be constants or parameters",
    ),
    Mistake(
        name="no neighbours",
        kind="search",
        ask=lambda session: session.search(query(1), 0),
        says="k must be a positive whole number, not 0",
    ),
    Mistake(
        name="half a neighbour",
        kind="search",
        ask=lambda session: session.search(query(1), 2.5),
        says=r"k must be a positive whole number, not (Decimal\(\\?')?2\.5",
    ),
    Mistake(
        name="unknown metric",
        kind="metric",
        ask=lambda session: session.search(query(1), metric="manhattan"),
        says="unknown metric 'manhattan' — metrics are l2, cosine, ip",
    ),
    Mistake(
        name="recall out of range",
        kind="recall",
        ask=lambda session: session.search(query(1), recall=2),
        says="recall must be above 0 and at most 1, not 2",
    ),
    Mistake(
        name="column that holds no vectors",
        kind="column",
        ask=lambda session: session.search(query(1), column="title"),
        says="column 'title' has the type string, not a vector",
    ),
    Mistake(
        name="unknown vector column",
        kind="column",
        ask=lambda session: session.search(query(1), column="vex"),
        says="no column 'vex' — did you mean 'vec'",
    ),
    Mistake(
        name="neither true nor false",
        kind="exact",
        ask=lambda session: session.search(query(1), exact="maybe"),
        says="exact must be true or false, not 'maybe'",
    ),
    Mistake(
        name="unknown table of a search",
        kind="table",
        ask=lambda session: session.search(query(1), table="nowhere"),
        says="no (lake )?table .*nowhere",
    ),
    Mistake(
        name="wrong dimension in a join",
        kind="join",
        ask=lambda session: session.joined([[1.0, 2.0]], 3),
        says=r"(shape \(1, 2\), but|length 2, but) column 'vec' has dimension 6",
    ),
)


@contextmanager
def refused(engine: EngineUnderTest, says: str, *more: type[BaseException]) -> Iterator[None]:
    """Hold that what is done inside is refused in these words, by the engine's own error or one of some more."""
    with pytest.raises((*engine.errors, *more), match=f"(?s){says}") as caught:
        yield
    assert isinstance(caught.value, more) or engine.owns(caught.value), repr(caught.value)
