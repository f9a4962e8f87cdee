"""How many rows a search hands out where DataFusion filters them itself.

The nearest k rows are not enough then. The rows handed out are put to DataFusion's own conditions, more of them
each time until k pass; the place of the k-th among them is the least number of which k pass. So no plan can get fewer
rows than there are, and none gets more than k, whatever stands above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import DataFrame
from datafusion.expr import Expr

from lake_connectors.datafusion.datasets import LakeDataset, NearestDataset
from lake_connectors.datafusion.plans import Scan

__all__ = ["Places", "passing", "readers", "settle", "settle_by_count"]

Places = npt.NDArray[np.int64]
_GROWTH = 4
_MOST_GROWTH = 32
_MARGIN = 1.5
_LEAST = 64


def readers(
    scans: list[Scan], made: list[LakeDataset], frame_of: Callable[[Any], DataFrame]
) -> list[LakeDataset | None]:
    """The dataset that each scan reads, None for a table of DataFusion's own.

    A plan does not say so: each scan is planned alone, and the dataset that is asked is its own.
    """
    if len(scans) == len(made) == 1 and scans[0].name in ("knn()", made[0].follower.name):
        return list(made)
    found: list[LakeDataset | None] = []
    for scan in scans:
        for dataset in made:
            dataset.was_planned = False
        frame_of(scan.plan).execution_plan()
        found.append(next((dataset for dataset in made if dataset.was_planned), None))
    return found


def passing(scan: Scan, frame_of: Callable[[Any], DataFrame]) -> Places:
    """Which of the rows a scan hands out pass the filters above it, by their places.

    The rows have to come as one batch: DataFusion keeps the order in a batch, and of several only on one thread.
    """
    places: Places | None = None
    for node, _ in scan.filters:
        condition = Expr(node.to_variant().predicate()).alias("passes")
        passes = frame_of(node.inputs()[0]).select(condition).to_arrow_table().column(0)
        hits = np.flatnonzero(passes.fill_null(pa.scalar(False)).to_numpy())
        places = hits if places is None else places[hits]
    if places is None:
        raise ValueError(f"no filter lies above the scan of {scan.name}")
    return places


def settle(dataset: NearestDataset, wanted: int, places: Callable[[], Places]) -> None:
    """Set the least number of candidates of which ``wanted`` pass, or all there are.

    A search that knows part of the conditions begins with as many as are wanted, since most of those may pass.

    Parameters
    ----------
    places
        Puts the rows that the dataset hands out to the conditions, and tells which pass.
    """
    if not _begin(dataset, wanted):
        return
    dataset.at_once = True
    found = places()
    while _grows(dataset, wanted, len(found)):
        found = places()
    dataset.at_once = False
    if len(found) >= wanted > 0:
        dataset.candidates = int(found[wanted - 1]) + 1


def settle_by_count(dataset: NearestDataset, wanted: int, count: Callable[[], int]) -> None:
    """The same where joins let rows through: what comes out of them cannot be told apart, but counted.

    A row more handed out is at most a row more that passes, so that there is a number of which just ``wanted`` pass.

    Parameters
    ----------
    count
        How many of the rows that the dataset hands out pass.
    """
    if not _begin(dataset, wanted):
        return
    fewer, below = 0, 0
    tried, found = dataset.candidates, count()
    while _grows(dataset, wanted, found):
        fewer, below = tried, found
        tried, found = dataset.candidates, count()
    enough, guessing = tried, True
    while found > wanted:
        step = (enough - fewer) * (wanted - below) // (found - below) if guessing else (enough - fewer) // 2
        dataset.candidates = min(max(fewer + step, fewer + 1), enough - 1)
        passed, guessing = count(), not guessing
        if passed >= wanted:
            enough, found = dataset.candidates, passed
        else:
            fewer, below = dataset.candidates, passed
    dataset.candidates = enough


def _begin(dataset: NearestDataset, wanted: int) -> bool:
    """Set how many candidates are tried first; whether anything has to be tried."""
    rows = dataset.snapshot.version.row_count
    first = wanted if dataset.carried else max(wanted * _GROWTH, _LEAST)
    dataset.candidates = min(first, rows)
    return wanted < rows


def _grows(dataset: NearestDataset, wanted: int, found: int) -> bool:
    """Set how many are tried next, where of those tried too few were found and there are more."""
    rows = dataset.snapshot.version.row_count
    if found >= wanted or dataset.exhausted or dataset.candidates >= rows:
        return False
    likely = int(_MARGIN * dataset.candidates * wanted / max(found, 1))
    most = dataset.candidates * _MOST_GROWTH
    dataset.candidates = min(max(dataset.candidates * _GROWTH, _LEAST, min(likely, most)), rows)
    return True
