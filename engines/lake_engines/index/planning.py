"""How far to look: turns a wanted recall, ``k`` and a selection into numbers of probes and candidates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lake_engines.index.interface import CalibrationRow
from lake_format.errors import InvalidInputError

__all__ = ["REFINE_ABOVE", "Plan", "plan_search"]

_GROWTH = (0.2, 1.0)  # probes grow by a power of k beyond what was calibrated: at least and at most this one
_ROUND_UP_TO = (
    100  # k up to here takes the next row; between larger ones the gaps are wide, and the one below is scaled
)
_REFINE_FROM = 1.3  # candidates to refine for each one wanted, where the caller says how many
_FILTER_MARGIN = 1.25  # with a selection, look as if for so many times the neighbours that should be enough
REFINE_ABOVE = 256  # candidates; comparing fewer raw vectors at once costs no more than reading records first


@dataclass(frozen=True, slots=True)
class Plan:
    """What one search does.

    ``width`` candidates come from the scan of ``probes`` lists; ``refine_to`` of them are kept by the refinement (0:
    it is skipped). ``adapt``: where a selection avoids the query's neighbourhood, probe more lists and take more
    candidates, since far vectors are nearly alike in distance; ``refine_wide`` of many are kept by the refinement.
    """

    probes: int
    width: int
    refine_to: int
    adapt: bool
    refine_wide: int


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
    adapt = probes is None and share < 1
    if probes is None:  # the k nearest of some are among the k / share nearest of all
        probes = _probes(calibration, k if share == 1 else _FILTER_MARGIN * k / max(share, 1 / count), row)
    probes = min(lists, probes)
    refining = can_refine and (row.refine_from > REFINE_ABOVE if refine is None else refine)
    if candidates is not None:
        width, refine_to = candidates, 0
        if refining and refine:
            width, refine_to = max(row.refine_from, int(_REFINE_FROM * candidates) + 1), candidates
    elif refining:
        width, refine_to = row.refine_from, row.refine_to
    else:
        width, refine_to = row.candidates, 0
    width = max(1, min(width, selected))
    refine_to = refine_to if refine_to < width else 0
    may_refine = can_refine and refine is not False and candidates is None
    return Plan(probes, width, refine_to, adapt, 2 * row.refine_to if may_refine else 0)


def _probes(calibration: Sequence[CalibrationRow], k: float, row: CalibrationRow) -> int:
    """Find how many probes ``k`` neighbours need, between and beyond the calibrated ones by a power of ``k``."""
    known = sorted((other.k, other.probes) for other in calibration if other.target == row.target)
    if not known or k <= row.k:
        return row.probes
    below = max(pair for pair in known if pair[0] <= k)
    above = min((pair for pair in known if pair[0] > k), default=None)
    if above is None:
        above = below
        below = known[max(0, len(known) - 2)]
    power = 0.0 if above == below else math.log(above[1] / below[1]) / math.log(above[0] / below[0])
    if k > above[0]:
        power = min(max(power, _GROWTH[0]), _GROWTH[1])
        below = above
    return max(row.probes, math.ceil(below[1] * math.pow(k / below[0], power)))


def _row(
    calibration: Sequence[CalibrationRow], k: int, recall: float, lists: int, count: int
) -> CalibrationRow:
    """Find the row for ``k`` and ``recall``; beyond the largest ``k`` measured, scale its candidates up."""
    if not calibration or recall >= 1:
        return _everything(k, recall, lists, count)
    known = sorted({row.k for row in calibration})
    nearest = next((value for value in known if value >= k), known[-1])
    if k > _ROUND_UP_TO:
        nearest = max(value for value in known if value <= k or value == known[0])
    rows = sorted((row for row in calibration if row.k == nearest), key=lambda row: row.target)
    row = next((row for row in rows if row.target >= recall), None)
    if row is None:
        return _everything(k, recall, lists, count)
    if k <= nearest:
        return row
    ratio = k / nearest
    return CalibrationRow(
        k=row.k,
        target=row.target,
        probes=row.probes,
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
