"""The vector index: an IVF index over 4-bit codes in one Puffin file, searched mapped or by range requests.

``build_index`` streams vectors into a file; ``IndexReader`` finds the candidates worth an exact comparison.
The package knows no tables: vectors have ordinals, callers map them to rows. Bytes: ``spec/index.md``.
"""

from lake_engines.index.building import FLAT_LIMIT, build_index, write_empty
from lake_engines.index.interface import (
    BuiltIndex,
    CalibrationRow,
    Candidates,
    Metric,
    Progress,
    SearchStats,
    VectorSource,
)
from lake_engines.index.model import Model
from lake_engines.index.reader import IndexReader
from lake_engines.index.selection import Selection
from lake_engines.index.training import train_index

__all__ = [
    "FLAT_LIMIT",
    "BuiltIndex",
    "CalibrationRow",
    "Candidates",
    "IndexReader",
    "Metric",
    "Model",
    "Progress",
    "SearchStats",
    "Selection",
    "VectorSource",
    "build_index",
    "train_index",
    "write_empty",
]
