"""Arguments of reads and searches, checked once at the door and turned into arrays. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.errors import InvalidInputError
from lake_format.row_ids import U64
from lake_format.schema import field_id, is_vector, require_column

__all__ = [
    "METRICS",
    "check_k",
    "check_metric",
    "check_queries",
    "check_recall",
    "check_row_ids",
    "vector_column",
]

METRICS = ("l2", "cosine", "ip")


def check_metric(metric: object) -> str:
    """One of :data:`METRICS`; InvalidInputError for anything else."""
    if metric not in METRICS:
        raise InvalidInputError(f"unknown metric {metric!r}", fix=f"metrics are {', '.join(METRICS)}")
    return str(metric)


def vector_column(schema: pa.Schema, name: str | None, indexed: Sequence[int]) -> pa.Field:
    """The vector column of this name, or without a name the only one (or the only one with an index)."""
    if name is not None:
        field = require_column(schema, name)
        if not is_vector(field.type):
            raise InvalidInputError(
                f"column {name!r} has the type {field.type}, not a vector",
                fix="vectors are fixed_size_list of float32 or float16",
            )
        return field
    vectors = [field for field in schema if is_vector(field.type)]
    if len(vectors) > 1:
        vectors = [field for field in vectors if field_id(field) in indexed] or vectors
    if not vectors:
        raise InvalidInputError(
            "the table has no vector column", fix="vectors are fixed_size_list of float32"
        )
    if len(vectors) > 1:
        names = ", ".join(repr(field.name) for field in vectors)
        raise InvalidInputError(f"the table has several vector columns: {names}", fix="name one with column=")
    return vectors[0]


def check_queries(vector: object, field: pa.Field) -> tuple[npt.NDArray[np.float32], bool]:
    """Query vectors as float32 of shape ``(queries, dimension)``, and whether a batch was handed in."""
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            given = np.asarray(_to_plain(vector), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the query is not a vector of numbers: {error}") from error
    batch = given.ndim == 2
    dimension = field.type.list_size
    if given.ndim not in (1, 2) or given.shape[-1] != dimension:
        raise InvalidInputError(
            f"the query has shape {given.shape}, but column {field.name!r} has dimension {dimension}",
            fix=f"pass one vector of {dimension} numbers, or a batch of shape (queries, {dimension})",
        )
    queries = np.ascontiguousarray(given.reshape(-1, dimension))
    if len(queries) == 0:
        raise InvalidInputError("the batch of queries is empty", fix="pass at least one vector")
    if not np.isfinite(queries).all():
        bad = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
        which = f"query {bad}" if batch else "the query"
        raise InvalidInputError(
            f"{which} holds a NaN or infinite value", fix="search with finite numbers only"
        )
    return queries, batch


def _to_plain(vector: object) -> object:
    if isinstance(vector, pa.ChunkedArray):
        vector = vector.combine_chunks()
    if isinstance(vector, pa.FixedSizeListArray):
        return vector.flatten().to_numpy(zero_copy_only=False).reshape(len(vector), -1)
    if isinstance(vector, pa.Array):
        return vector.to_pylist()
    if isinstance(vector, pa.Scalar):
        return vector.as_py()
    return vector


def check_k(k: object) -> int:
    """The number of neighbours, a positive whole number."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InvalidInputError(f"k must be a positive whole number, not {k!r}")
    return int(k)


def check_recall(recall: object) -> float:
    """The recall wanted, in (0, 1]."""
    if (
        isinstance(recall, bool)
        or not isinstance(recall, int | float)
        or not 0 < recall <= 1
        or math.isnan(recall)
    ):
        raise InvalidInputError(
            f"recall must be above 0 and at most 1, not {recall!r}", fix="0.95 is the default"
        )
    return float(recall)


def check_row_ids(row_ids: object) -> U64:
    """Row ids as uint64; shape ``(n,)``."""
    if isinstance(row_ids, pa.ChunkedArray | pa.Array):
        if row_ids.null_count:
            raise InvalidInputError("row ids must not be NULL")
        row_ids = (
            row_ids.to_numpy(zero_copy_only=False) if isinstance(row_ids, pa.Array) else row_ids.to_numpy()
        )
    given = np.asarray(row_ids)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise InvalidInputError("row ids must be a flat list of whole numbers")
    if given.size and given.dtype.kind == "i" and int(given.min()) < 0:
        raise InvalidInputError(f"row id {int(given.min())} is negative")
    return given.astype(np.uint64)
