"""How far to look: turns a wanted recall, ``k`` and a selection into numbers of probes and candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lake_engines.index.interface import CalibrationRow
from lake_format.errors import InvalidInputError

__all__ = ["Plan", "plan_search"]

_SELECTIVITY_EXPONENT = (
    0.3  # probes grow by selectivity ** -0.3: 1.2, 2 and 4 times at 50, 10 and 1 % (measured)
)
_REFINE_ABOVE = (
    256  # candidates; below, comparing raw vectors at once costs no more than reading records first
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one search does.

    ``width`` candidates come from the scan of ``probes`` lists; ``refine_to`` of them are kept by the
    refinement (0: it is skipped). ``wanted`` is how many selected vectors the probed lists should hold:
    fewer means that the selection avoids the query's neighbourhood, and more lists are probed.
    """

    probes: int
    width: int
    refine_to: int
    wanted: float


def plan_search(
    calibration: Sequence[CalibrationRow],
    k: int,
    recall: float,
    *,
    count: int,
    lists: int,
    selected: int,
    can_refine: bool,
    probes: int | None = None,
    candidates: int | None = None,
    refine: bool | None = None,
) -> Plan:
    """Make a plan.

    Parameters
    ----------
    calibration
        The index's rows; without any, everything is scanned.
    count, lists
        Vectors and lists of the index.
    selected
        Vectors that may be returned.
    probes, candidates, refine
        The caller's overrides.
    """
    for name, value in (("probes", probes), ("candidates", candidates)):
        if value is not None and value < 1:
            raise InvalidInputError(f"{name} must be at least 1, not {value}")
    row = _row(calibration, k, recall, lists, count)
    share = min(1.0, selected / max(1, count))
    base = min(lists, row.probes if probes is None else probes)
    factor = share**-_SELECTIVITY_EXPONENT if share > 0 else 1.0
    widened = base if probes is not None else min(lists, math.ceil(base * factor))
    refining = can_refine and (row.refine_from > _REFINE_ABOVE if refine is None else refine)
    if candidates is not None:
        width, refine_to = candidates, 0
        if refining and refine:
            width, refine_to = max(row.refine_from, candidates), candidates
    elif refining:
        width, refine_to = row.refine_from, row.refine_to
    else:
        width, refine_to = row.candidates, 0
    width = max(1, min(width, selected))
    refine_to = refine_to if refine_to < width else 0
    wanted = 0.0
    if probes is None and selected < count:
        wanted = 0.5 * widened * (count / lists) * share
    return Plan(widened, width, refine_to, wanted)


def _row(
    calibration: Sequence[CalibrationRow], k: int, recall: float, lists: int, count: int
) -> CalibrationRow:
    """Find the row for ``k`` and ``recall``; beyond the largest ``k`` measured, scale up from it."""
    if not calibration or recall >= 1:
        return _everything(k, recall, lists, count)
    known = sorted({row.k for row in calibration})
    nearest = next((value for value in known if value >= k), known[-1])
    rows = sorted((row for row in calibration if row.k == nearest), key=lambda row: row.target)
    row = next((row for row in rows if row.target >= recall), None)
    if row is None:
        return _everything(k, recall, lists, count)
    if k <= nearest:
        return row
    ratio = k / nearest
    return CalibrationRow(
        k=k,
        target=row.target,
        probes=min(lists, math.ceil(row.probes * ratio**0.5)),
        candidates=math.ceil(row.candidates * ratio),
        refine_from=math.ceil(row.refine_from * ratio),
        refine_to=math.ceil(row.refine_to * ratio),
        recall=row.recall,
    )


def _everything(k: int, recall: float, lists: int, count: int) -> CalibrationRow:
    """Scan every list and compare many candidates: nothing better is known."""
    width = min(count, max(1000, 20 * k))
    return CalibrationRow(
        k=k, target=recall, probes=lists, candidates=width, refine_from=width, refine_to=width, recall=recall
    )
