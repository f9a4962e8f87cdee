"""Whether the vectors still fit the model they are coded with: when to train anew.

A model goes out of date in two ways: the rows become so many, or so few, that its number of lists is wrong for them,
or they come from elsewhere, so that they lie far from every centroid. Both are measured against what was noted when
the model was trained; an index without such notes is never found to drift.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lake_engines.index.interface import F32
from lake_engines.index.kernel import Codec
from lake_engines.index.model import Model, row_norms

__all__ = ["FLAT_LIMIT", "SAMPLE", "drift", "mean_error"]

FLAT_LIMIT = 1024  # with fewer vectors, comparing with all of them is as fast and needs no training
SAMPLE = 2048  # vectors looked at
_GROWN = 3.0  # times the rows of the training
_SHRUNK = 1 / 8
_FARTHER = 1.3  # times the mean squared distance to the nearest centroid


def mean_error(model: Model, vectors: F32) -> float:
    """Mean squared distance to the nearest centroid, in the prepared space; 0 for no vectors."""
    norms = row_norms(vectors)
    usable = np.isfinite(norms) & (norms > 0) if model.metric == "cosine" else norms < 1e18
    vectors, norms = vectors[usable], norms[usable]
    if not len(vectors):
        return 0.0
    prepared = model.prepare_vectors(vectors, norms)
    residuals = prepared - model.centroids[Codec(model).assign(prepared)]
    return float(np.einsum("ij,ij->", residuals, residuals, dtype=np.float64) / len(residuals))


def drift(parameters: Mapping[str, object], rows: int, error: float) -> str:
    """Why a model should be trained anew for so many rows with this mean error; "" where it need not be."""
    if not parameters.get("lists"):
        return "there are enough rows for codes now" if rows >= FLAT_LIMIT else ""
    if rows < FLAT_LIMIT:
        return "so few rows need no codes"
    trained, before = parameters.get("trained_rows"), parameters.get("training_error")
    if isinstance(trained, int) and rows > _GROWN * trained:
        return f"the index was trained on {trained:,} rows, and there are {rows:,}"
    if isinstance(trained, int) and rows < _SHRUNK * trained:
        return f"the index was trained on {trained:,} rows, of which {rows:,} are left"
    if isinstance(before, int | float) and before > 0 and error > _FARTHER * before:
        return f"vectors lie {error / before:.1f} times as far from the centroids as when it was trained"
    return ""
