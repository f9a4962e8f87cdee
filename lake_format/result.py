"""What a search returns to its user: neighbours as Arrow, and an account of how they were found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lake_format.engine import SearchAnswer
from lake_format.errors import UnsupportedError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["QUERY", "SearchResult"]

QUERY = "_query"


class SearchResult:
    """The nearest neighbours of one query or of a batch.

    Rows come nearest first. For a batch there is a first column ``_query`` with the query's number, and the
    neighbours of query 0 come before those of query 1. Passes as an Arrow stream to anything that takes one.
    """

    def __init__(self, answer: SearchAnswer, *, batch: bool) -> None:
        table = answer.table
        if batch:
            table = table.add_column(0, pa.field(QUERY, pa.int64(), False), pa.array(answer.query))
        self._table = table
        self._plan = answer.plan

    def to_arrow(self) -> pa.Table:
        """The neighbours as an Arrow table."""
        return self._table

    def to_pandas(self) -> pd.DataFrame:
        """The neighbours as a pandas frame; UnsupportedError where pandas is not installed."""
        try:
            return self._table.to_pandas()
        except ModuleNotFoundError as error:
            raise UnsupportedError(
                "pandas is not installed", fix="install lake-format[pandas], or use to_arrow()"
            ) from error

    def to_pylist(self) -> list[dict[str, Any]]:
        """The neighbours as Python dictionaries, one a row."""
        rows: list[dict[str, Any]] = self._table.to_pylist()
        return rows

    def explain(self) -> str:
        """How the search was done: index or exact, probes, candidates, bytes and requests, one fact a line."""
        width = max(map(len, self._plan), default=0)
        return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in self._plan.items())

    @property
    def plan(self) -> dict[str, Any]:
        """The facts of :meth:`explain` as a dictionary."""
        return dict(self._plan)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows over through the Arrow C stream interface."""
        return self._table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"SearchResult({len(self)} rows: {', '.join(self._table.column_names)})"


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
