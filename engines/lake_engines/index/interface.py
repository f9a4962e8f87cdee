"""What the vector index is given and what it gives back: plain values, no behaviour.

The index knows nothing of tables. It numbers vectors by *ordinals* 0..n-1 in the order they were fed; the
caller maps ordinals to row ids and does the exact last step from the raw vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from lake_format.errors import InvalidInputError

__all__ = [
    "F32",
    "F64",
    "I64",
    "METRICS",
    "U8",
    "BuiltIndex",
    "CalibrationRow",
    "Candidates",
    "Metric",
    "Progress",
    "SearchStats",
    "VectorSource",
    "check_metric",
]

Metric = Literal["l2", "cosine", "ip"]
METRICS: tuple[Metric, ...] = get_args(Metric)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

Progress = Callable[[str, int, int], None]
"""Called as ``progress(stage, done, total)``; stages are train, encode, calibrate and write."""


class VectorSource(Protocol):
    """The vectors to index: restartable, read in any order, in bounded memory.

    ``read`` and ``gather`` are called from several threads at the same time.
    """

    @property
    def count(self) -> int:
        """Number of vectors."""
        ...

    @property
    def dimension(self) -> int:
        """Components per vector."""
        ...

    def read(self, start: int, stop: int) -> F32:
        """Return vectors ``start`` to ``stop``; shape ``(stop - start, dimension)``, may be a view."""
        ...

    def gather(self, ordinals: I64) -> F32:
        """Return the vectors at ascending ``ordinals``; shape ``(len(ordinals), dimension)``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRow:
    """What it takes to reach a recall, as measured on held-out queries when the index was built.

    Attributes
    ----------
    k
        Number of neighbours asked for.
    target
        Recall at ``k`` that this row is for.
    probes
        Lists to scan.
    candidates
        Best-scored candidates to re-rank exactly, straight from the scan.
    refine_from, refine_to
        The other way: take so many from the scan, keep so many after the int8 refinement.
    recall
        Mean recall that was measured with ``probes`` and ``candidates``.
    """

    k: int
    target: float
    probes: int
    candidates: int
    refine_from: int
    refine_to: int
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIndex:
    """What the manifest keeps of a finished index file.

    ``head_length`` is the number of bytes, *from the end of the file*, that the first request must bring, and
    ``head_crc`` their CRC-32.
    """

    size: int
    head_length: int
    head_crc: int
    count: int
    dimension: int
    metric: Metric
    kind: str
    model_id: str
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    calibration: tuple[CalibrationRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """What one call of ``search`` did; figures are sums over its queries where not said otherwise.

    Attributes
    ----------
    probes
        Lists scanned per query, the most of any query.
    lists_read
        Lists that had to be fetched or checked for the first time.
    rounds
        Dependent rounds of range requests; 0 where the file is memory-mapped.
    requests, bytes_read
        Range requests and bytes fetched from the store.
    refined
        Candidates per query that went through the int8 refinement, 0 if it was skipped.
    widened
        How many times more lists than planned were scanned, for the query with the most. From 8 on, a selection
        holds hardly anything near a query; its neighbours are then far and alike, and exact comparison with all
        that is selected is both surer and, up to some 100,000 vectors, faster.
    complete
        True where all lists were scanned for some query (few rows match, or ``k`` is large).
    """

    probes: int = 0
    lists_read: int = 0
    rounds: int = 0
    requests: int = 0
    bytes_read: int = 0
    refined: int = 0
    widened: int = 1
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Rows worth an exact comparison, best first.

    Attributes
    ----------
    ordinals
        Shape ``(queries, width)``, int64, padded with -1 at the end of each row; unique within a row.
    distances
        Approximate distances of the same shape, float32, in the unit of the metric (Euclidean, 1 - cosine,
        negated inner product); NaN for padding and where the index knows none (few vectors, zero vectors).
    stats
        What the search did.
    """

    ordinals: I64
    distances: F32
    stats: SearchStats


def check_metric(metric: str) -> Metric:
    """Return ``metric`` if it is one of ours.

    Raises
    ------
    InvalidInputError
        It is not.
    """
    for known in METRICS:
        if metric == known:
            return known
    raise InvalidInputError(f"unknown metric {metric!r}", fix=f"use one of {', '.join(METRICS)}")
