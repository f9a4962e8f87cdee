"""What placing needs to know of new values: which columns they are for, what they are computed from, and how.

The protocol between those who know values (assignments, merges, carried rows) and :mod:`.placing`, which knows files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.model import Fragment

__all__ = ["I64", "NewValues", "Target"]

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Rows of one fragment that get new values.

    Attributes
    ----------
    positions
        Live positions, strictly increasing; shape ``(n,)``.
    origin
        For each, where its values come from (a row of a source or of a file); None where they follow from the
        row itself; shape ``(n,)``.
    clause
        For each, which clause of a merge it falls under; None where there is one only.
    """

    fragment: Fragment
    positions: I64
    origin: I64 | None = None
    clause: I64 | None = None

    def part(self, start: int, stop: int) -> Target:
        """The rows ``[start, stop)`` of these."""
        return Target(
            fragment=self.fragment,
            positions=self.positions[start:stop],
            origin=None if self.origin is None else self.origin[start:stop],
            clause=None if self.clause is None else self.clause[start:stop],
        )


class NewValues(Protocol):
    """New values of some columns, computed for some rows at a time.

    ``columns`` are the columns that change, ``inputs`` those the values are computed from.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that get new values."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns of the table that :meth:`compute` is given."""
        ...

    def compute(self, rows: pa.RecordBatch, target: Target) -> Mapping[str, pa.Array]:
        """New values for exactly the rows of ``target``; ``rows`` holds their inputs, in the same order."""
        ...

    def unchanged(self, target: Target) -> Mapping[str, pa.Array]:
        """Values that the rows of ``target`` keep, of columns for which they are known without reading them."""
        ...
