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

__all__ = ["Places", "passing", "readers", "settle"]

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
    rows = dataset.snapshot.version.row_count
    if wanted >= rows:
        dataset.candidates = rows
        return
    dataset.candidates = min(wanted if dataset.carried else max(wanted * _GROWTH, _LEAST), rows)
    dataset.at_once = True
    found = places()
    while len(found) < wanted and not dataset.exhausted and dataset.candidates < rows:
        likely = int(_MARGIN * dataset.candidates * wanted / max(len(found), 1))
        most = dataset.candidates * _MOST_GROWTH
        dataset.candidates = min(max(dataset.candidates * _GROWTH, _LEAST, min(likely, most)), rows)
        found = places()
    dataset.at_once = False
    if len(found) >= wanted > 0:
        dataset.candidates = int(found[wanted - 1]) + 1
