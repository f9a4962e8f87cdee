"""Turns raw vectors into what a shard stores of them: list, 4-bit codes with correction, refinement record.

Why a correction (spec/index.md, IDX-7): one lookup table per query is exact for inner products with
residuals, but ranking by Euclidean distance needs -|x̂|²/2 as well, where x̂ = centroid + decoded residual.
The centroid's part is the list's bias; the rest is one number per vector, stored as a few more 4-bit codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lake_engines.index.interface import F32, F64, I64, U8, Metric
from lake_engines.index.kernel import Codec
from lake_engines.index.model import CODEWORDS, Model, row_norms
from lake_engines.index.refinement import encode_records
from lake_format.errors import InvalidInputError

__all__ = ["EncodedBlock", "Encoder", "RowNamer", "check_finite", "correction_tables", "correction_values"]

_LEAST_REACH = (
    1e-3  # of the corrections: tables that are the same everywhere would leave a scan without a scale
)

RowNamer = Callable[[int], str]
"""Says how to call the vector with an ordinal in a message, for example ``row 17``."""


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """What is stored of a run of vectors.

    ``lists`` holds ``model.list_count`` for vectors without direction (zero vectors under cosine).
    """

    prepared: F32
    lists: I64
    codes: U8
    records: U8 | None


class Encoder:
    """Encodes runs of vectors by a model. Immutable: shared by threads."""

    def __init__(self, model: Model, *, refine: bool, name_row: RowNamer) -> None:
        self._model = model
        self._codec = Codec(model)
        self._refine = refine
        self._name_row = name_row

    def encode(self, vectors: F32, ordinals: I64) -> EncodedBlock:
        """Encode vectors, shape ``(n, dimension)``, that have the ordinals, shape ``(n,)``.

        Raises
        ------
        InvalidInputError
            A value is NaN or infinite, or too large to compare.
        """
        model = self._model
        norms = row_norms(vectors)
        check_finite(norms, 0, lambda row: self._name_row(int(ordinals[row])))
        prepared = model.prepare_vectors(vectors, norms)
        lists = self._codec.assign(prepared)
        centroids = model.centroids[lists]
        residuals = prepared - centroids
        codes, decoded = self._codec.quantise(residuals)
        values = correction_values(model.metric, prepared, centroids, residuals, decoded)
        full = np.empty((len(vectors), model.code_size), np.uint8)
        full[:, : codes.shape[1]] = codes
        full[:, codes.shape[1] :] = correction_codes(values, model.corrections)
        records = encode_records(prepared, model.dimension, model.metric) if self._refine else None
        if model.metric == "cosine":
            lists[norms == 0] = model.list_count
        return EncodedBlock(prepared, lists, full, records)


def check_finite(norms: F64, start: int, name_row: RowNamer) -> None:
    """Refuse vectors whose norm is NaN, infinite, or beyond what float32 can square."""
    bad = np.flatnonzero(~(norms < 1e18))
    if len(bad):
        what = "holds NaN or infinity" if not np.isfinite(norms[bad[0]]) else "is longer than 1e18"
        raise InvalidInputError(
            f"the vector of {name_row(start + int(bad[0]))} {what}; such values have no distance",
            fix="mend or NULL these vectors before indexing",
        )


def correction_values(metric: Metric, prepared: F32, centroids: F32, residuals: F32, decoded: F32) -> F32:
    """Compute the number per vector that makes the scan's score right.

    l2, cosine: ``-(c·r̂ + |r̂|²/2)``. ip: ``x·e / |x|²`` with ``e`` the quantisation error, to be
    multiplied by the score expected of the best vectors: what they have in common is a component along
    the query.
    """
    if metric == "ip":
        squares = np.einsum("ij,ij->i", prepared, prepared)
        errors = np.einsum("ij,ij->i", prepared, residuals) - np.einsum("ij,ij->i", prepared, decoded)
        values: F32 = errors / np.maximum(squares, np.float32(1e-20))
        return values
    products: F32 = np.einsum("ij,ij->i", centroids + np.float32(0.5) * decoded, decoded)
    return -products


def correction_tables(low: float, high: float, count: int) -> F32:
    """Lay out ``count`` tables of 16 entries whose sums reach evenly from ``low`` to ``high``."""
    coarse = count - 1
    high = max(high, low + _LEAST_REACH)
    step = (high - low) / _levels(coarse)
    tables = np.empty((count, CODEWORDS), np.float64)
    tables[:coarse] = step * CODEWORDS * np.arange(CODEWORDS)
    tables[0] += low
    tables[coarse] = step * np.arange(CODEWORDS)
    return tables.astype(np.float32)


def correction_codes(values: F32, tables: F32) -> U8:
    """Quantise corrections; shape ``(n, tables / 2)``, two 4-bit codes a byte, the lower first."""
    coarse = len(tables) - 1
    low, step = float(tables[0, 0]), float(tables[-1, 1])
    levels = np.clip(np.rint((values - low) * (1 / step)), 0, _levels(coarse)).astype(np.int32)
    codes = np.empty((len(values), len(tables)), np.uint8)
    rest = levels >> 4
    for table in range(coarse):
        codes[:, table] = np.minimum(rest, CODEWORDS - 1)
        rest -= codes[:, table].astype(np.int32)
    codes[:, coarse] = levels & 15
    codes[:, 1::2] <<= 4
    return codes[:, 0::2] | codes[:, 1::2]


def _levels(coarse: int) -> int:
    return ((CODEWORDS - 1) * coarse + 1) * CODEWORDS - 1
