"""One operation that takes part: what one calls, and what that means for a version of the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from machine.state import Effect, Row, State

import lake_format as lake

Test = Callable[[Row], bool]
ANY_TABLE = (True, False)


@dataclass(frozen=True, eq=False)
class Sample:
    """An operation on the table of :mod:`.table`.

    Attributes
    ----------
    kind, title
        As the conflict matrix names it; which of its kind.
    call
        The call, with the names that columns have in the base version.
    plan
        What it means for a version, with the numbers that columns have for life; RefusedError where it cannot be.
    strategy
        How existing rows get new values: ``rewrite``, ``patch``, ``move`` or None, which leaves it to the costs.
    keyed
        On which tables it makes sense: those with a key, those without.
    redone
        Whether it can be planned again without its user. What cannot is a conflict where the matrix says replan.
    """

    kind: str
    title: str
    call: Callable[[lake.Table], Any]
    plan: Callable[[State], Effect]
    strategy: str | None = None
    keyed: tuple[bool, ...] = (True,)
    redone: bool = True

    def __str__(self) -> str:
        return f"{self.kind} ({self.title})"


def having(number: int, *values: Any) -> Test:
    """Rows with one of these values in a column."""
    return lambda row: row.get(number) in values


def every(_row: Row) -> bool:
    return True


def chosen(state: State, test: Test) -> list[int]:
    """Ids of the rows that pass."""
    return [row_id for row_id, row in state.rows.items() if test(row)]
