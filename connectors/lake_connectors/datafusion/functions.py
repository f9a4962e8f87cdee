"""Distances as SQL functions: by matrix kernels over vectors as they lie, instead of number by number.

They take lists of FLOAT, as which DataFusion hands over vectors without copying them, and return FLOAT. DataFusion's
own functions compute in DOUBLE and take lists of any numbers; these stand beside them under names of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datafusion import ScalarUDF, udf

from lake_engines.knn.distances import exact_distances
from lake_format.errors import InvalidInputError

__all__ = ["distance_functions"]

_VECTOR = pa.list_(pa.float32())
_FUNCTIONS = {
    "lake_l2_distance": "l2",
    "lake_cosine_distance": "cosine",
    "lake_negative_inner_product": "ip",
}


def distance_functions() -> list[ScalarUDF]:
    """The functions to register."""
    return [
        udf(_function(name, metric), [_VECTOR, _VECTOR], pa.float32(), "immutable", name)
        for name, metric in _FUNCTIONS.items()
    ]


def _function(name: str, metric: str) -> Callable[[pa.Array, pa.Array], pa.Array]:
    return partial(_distances, name, metric)


def _distances(name: str, metric: str, left: pa.ListArray, right: pa.ListArray) -> pa.Array:
    """The distance of each pair; NULL where one of the two is."""
    both = np.logical_and(*(_valid(side) for side in (left, right)))
    if not both.all():
        kept = pa.array(both)
        some = _distances(name, metric, left.filter(kept), right.filter(kept))
        answer = np.zeros(len(both), np.float32)
        answer[both] = some.to_numpy(zero_copy_only=False)
        return pa.array(answer, mask=~both)
    if len(left) == 0:
        return pa.array([], pa.float32())
    ours, theirs = _matrix(name, left), _matrix(name, right)
    if ours.shape[1] != theirs.shape[1]:
        raise InvalidInputError(
            f"{name}() got vectors of length {ours.shape[1]} and {theirs.shape[1]}",
            fix="give it vectors of the same dimension",
        )
    for one, other in ((ours, theirs), (theirs, ours)):
        if _is_repeated(one):
            return pa.array(exact_distances(one[0], other, metric))
    return pa.array(_paired(ours, theirs, metric))


def _valid(side: pa.ListArray) -> npt.NDArray[np.bool_]:
    if side.null_count == 0:
        return np.ones(len(side), bool)
    return np.asarray(side.is_valid().to_numpy(zero_copy_only=False))


def _matrix(name: str, side: pa.ListArray) -> npt.NDArray[np.float32]:
    """The vectors as rows of a matrix; a view of their values."""
    offsets = side.offsets.to_numpy()
    lengths = np.diff(offsets)
    if len(np.unique(lengths)) != 1:
        raise InvalidInputError(f"{name}() got vectors of different lengths in one column")
    values = side.values.slice(offsets[0], offsets[-1] - offsets[0])
    if values.null_count:
        raise InvalidInputError(f"{name}() got a vector that holds NULL", fix="leave such rows out")
    matrix: npt.NDArray[np.float32] = values.to_numpy().reshape(len(side), -1)
    return matrix


def _is_repeated(matrix: npt.NDArray[np.float32]) -> bool:
    """Whether all rows are the same, as a constant arrives."""
    return bool((matrix[0] == matrix[-1]).all() and (matrix[: len(matrix) // 2] == matrix[0]).all()) and bool(
        (matrix == matrix[0]).all()
    )


def _paired(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], metric: str
) -> npt.NDArray[np.float32]:
    """Row by row."""
    products = np.einsum("ij,ij->i", left, right)
    if metric == "ip":
        return np.asarray(-products)
    if metric == "l2":
        difference = left - right
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", difference, difference)))
    lengths = np.sqrt(np.einsum("ij,ij->i", left, left) * np.einsum("ij,ij->i", right, right))
    with np.errstate(all="ignore"):
        return np.where(lengths > 0, np.float32(1) - products / lengths, np.float32(np.nan))
