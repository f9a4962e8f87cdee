"""The trained part of an index: how vectors become codes and how codes and a query become a score.

A model holds the centroids and the codebook; it is independent of the rows of any shard, so that several
shards can share one and be searched together. This module knows the arithmetic and the model's bytes
(spec/index.md, IDX clauses), not the library that scans, and opens no files.

All work happens in a *prepared* space: vectors are normalised (cosine only), centred, scaled to a mean
squared norm of 1 and padded. Centring changes no ranking, makes residuals of un-normalised data small against
8-bit tables, and scaling keeps centroids inside float16.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import F32, F64, METRICS, Metric
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError

__all__ = [
    "CODEWORDS",
    "Model",
    "PreparedQueries",
    "all_true",
    "model_id",
    "padded_dimension",
    "prepare",
    "row_norms",
    "sub_dimension",
]

CODEWORDS = 16  # per subquantiser: 4 bits
_MAGIC = b"IVM0"
_HEADER = struct.Struct("<4s6If")
_LARGEST_QUERY = 1e12  # in the prepared space; farther queries keep their direction only


def sub_dimension(dimension: int) -> int:
    """Components per 4-bit subquantiser: 2 bits a component up to 256, then 1 and 1/2 bit."""
    if dimension <= 256:
        return 2
    return 4 if dimension <= 2048 else 8


def padded_dimension(dimension: int, sub: int) -> int:
    """Round up to an even number of subquantisers, so that codes end on a byte."""
    return -(-dimension // (2 * sub)) * 2 * sub


@dataclass(frozen=True, slots=True)
class PreparedQueries:
    """Queries in the form the scan takes, and what turns scores back into distances.

    ``extended`` has shape ``(queries, width)``: the prepared query, then for each correction table one
    sub-vector whose first component multiplies that table.
    """

    extended: F32
    squared_norms: F32  # of the prepared queries (l2, cosine); of no meaning for ip
    factors: F32  # ip: the norm divided away
    offsets: F32  # ip: inner product with the mean
    undefined: npt.NDArray[np.bool_]  # cosine: the query is the zero vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Centroids, codebook and correction tables.

    Attributes
    ----------
    mean
        Shape ``(dimension,)``: subtracted from every vector.
    scale
        Multiplied after centring.
    centroids
        Shape ``(lists, padded)``, values that float16 holds exactly.
    codebook
        Shape ``(subquantisers, 16, sub)``: codewords of residuals.
    corrections
        Shape ``(tables, 16)``: the sum of one entry per table is the per-vector correction. The first
        ``tables - 1`` share the coarse part, the last is the fine part; spreading it keeps every
        table's span small, which is what sets the resolution of the 8-bit tables in a scan.
    """

    metric: Metric
    dimension: int
    scale: float
    mean: F32
    centroids: F32
    codebook: F32
    corrections: F32

    @property
    def list_count(self) -> int:
        """Number of lists."""
        return len(self.centroids)

    @property
    def sub(self) -> int:
        """Components per subquantiser."""
        return int(self.codebook.shape[2])

    @property
    def padded(self) -> int:
        """Components of a prepared vector."""
        return int(self.centroids.shape[1])

    @property
    def code_size(self) -> int:
        """Bytes of one vector's code, corrections included."""
        return (len(self.codebook) + len(self.corrections)) // 2

    @property
    def width(self) -> int:
        """Components of an extended query."""
        return self.padded + len(self.corrections) * self.sub

    def biases(self) -> F32:
        """Return what each list adds to the score of its vectors; shape ``(lists,)``."""
        if self.metric == "ip":
            return np.zeros(self.list_count, np.float32)
        squares: F64 = np.einsum("ij,ij->i", self.centroids, self.centroids, dtype=np.float64)
        return (-0.5 * squares).astype(np.float32)

    def prepare_vectors(self, vectors: F32, norms: F64) -> F32:
        """Bring vectors into the prepared space (:func:`prepare`)."""
        return prepare(vectors, norms, self.metric, self.mean, self.scale, self.padded)

    def prepare_queries(self, queries: F32) -> PreparedQueries:
        """Bring finite queries of shape ``(n, dimension)`` into the form the scan takes."""
        count, dimension = queries.shape
        extended = np.zeros((count, self.width), np.float32)
        inner = extended[:, :dimension]
        if self.metric == "l2":
            np.subtract(queries, self.mean, out=inner)
            return self._finish(queries, extended, inner, _NOTHING_UNDEFINED)
        norms = row_norms(queries)
        undefined = norms == 0
        np.divide(queries, (norms + undefined)[:, None], out=inner, casting="same_kind")
        if self.metric == "cosine":
            inner -= self.mean
            return self._finish(queries, extended, inner, undefined)
        offsets = queries @ self.mean
        return PreparedQueries(extended, _NOTHING, norms.astype(np.float32), offsets, _NOTHING_UNDEFINED)

    def _finish(
        self, queries: F32, extended: F32, inner: F32, undefined: npt.NDArray[np.bool_]
    ) -> PreparedQueries:
        """Scale centred queries (l2, cosine), and let them meet the corrections with factor 1."""
        inner *= np.float32(self.scale)
        extended[:, self.padded :: self.sub] = 1
        squares: F32 = np.einsum("ij,ij->i", inner, inner)
        if not all_true(squares < _LARGEST_QUERY**2):
            squares = self._shorten(queries, inner)
        return PreparedQueries(extended, squares, _NOTHING, _NOTHING, undefined)

    def _shorten(self, queries: F32, inner: F32) -> F32:
        """Bring l2 queries that lie absurdly far away to where float32 can still rank; returns the true squares."""
        exact = (queries.astype(np.float64) - self.mean) * self.scale
        norms: F64 = np.sqrt(np.einsum("ij,ij->i", exact, exact))
        inner[:] = exact * np.minimum(1.0, _LARGEST_QUERY / np.maximum(norms, 1.0))[:, None]
        return (norms**2).astype(np.float32)

    def distances(self, scores: F32, prepared: PreparedQueries) -> F32:
        """Turn scores, shape ``(queries, m)``, into approximate distances in the metric's unit."""
        if self.metric == "ip":
            products: F32 = scores * (prepared.factors / np.float32(self.scale))[:, None]
            return -(products + prepared.offsets[:, None])
        squares: F32 = prepared.squared_norms[:, None] - 2 * scores
        np.maximum(squares, 0, out=squares)
        if self.metric == "l2":
            np.sqrt(squares, out=squares)
            squares *= np.float32(1 / self.scale)
            return squares
        squares *= np.float32(0.5 / self.scale**2)
        if len(prepared.undefined) and prepared.undefined.any():
            squares[prepared.undefined] = np.nan
        return squares

    def encode(self) -> bytes:
        """Return the model's bytes, checksum last."""
        header = _HEADER.pack(
            _MAGIC,
            METRICS.index(self.metric),
            self.dimension,
            self.list_count,
            len(self.codebook),
            self.sub,
            len(self.corrections),
            self.scale,
        )
        parts = (
            header,
            self.mean.astype("<f4").tobytes(),
            self.codebook.astype("<f4").tobytes(),
            self.corrections.astype("<f4").tobytes(),
            self.centroids[:, : self.dimension].astype("<f2").tobytes(),
        )
        body = b"".join(parts)
        return body + struct.pack("<I", crc32(body))

    @classmethod
    def decode(cls, data: bytes, where: str) -> Model:
        """Read and check a model's bytes; CorruptionError if they are not what :meth:`encode` writes."""
        if len(data) < _HEADER.size + 4 or data[:4] != _MAGIC:
            raise CorruptionError(f"{where}: not the bytes of an index model")
        if crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
            raise CorruptionError(f"{where}: the index model's checksum does not match")
        _, metric, dimension, lists, subquantisers, sub, tables, scale = _HEADER.unpack_from(data)
        padded = subquantisers * sub
        shapes = ((dimension, "<f4"), (padded * 16, "<f4"), (tables * 16, "<f4"), (lists * dimension, "<f2"))
        expected = _HEADER.size + 4 + sum(count * np.dtype(kind).itemsize for count, kind in shapes)
        if (
            expected != len(data)
            or metric >= len(METRICS)
            or not 0 < dimension <= padded
            or not 0 < lists < 1 << 16
            or subquantisers % 2
            or tables % 2
            or tables == 0
            or not (np.isfinite(scale) and scale > 0)
        ):
            raise CorruptionError(f"{where}: the index model's header contradicts itself")
        arrays, offset = [], _HEADER.size
        for count, kind in shapes:
            arrays.append(np.frombuffer(data, kind, count, offset).astype(np.float32))
            offset += count * np.dtype(kind).itemsize
        mean, codebook, corrections, inner = arrays
        if not all(np.isfinite(array).all() for array in arrays):
            raise CorruptionError(f"{where}: the index model holds values that are not finite")
        centroids = np.zeros((lists, padded), np.float32)
        centroids[:, :dimension] = inner.reshape(lists, dimension)
        return cls(
            metric=METRICS[metric],
            dimension=dimension,
            scale=scale,
            mean=mean,
            centroids=centroids,
            codebook=codebook.reshape(subquantisers, 16, sub),
            corrections=corrections.reshape(tables, 16),
        )


def model_id(encoded: bytes) -> str:
    """Name a model by its bytes: 32 hexadecimal digits (BLAKE2b)."""
    return hashlib.blake2b(encoded, digest_size=16).hexdigest()


def all_true(mask: npt.NDArray[np.bool_]) -> bool:
    """Tell if all are true; several times faster than ``mask.all()`` for the one element of a single query."""
    return bool(mask.item() if mask.size == 1 else mask.all())


def row_norms(vectors: F32) -> F64:
    """Compute Euclidean norms, in float64 so that they neither overflow nor underflow."""
    norms: F64 = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return norms


def prepare(vectors: F32, norms: F64, metric: Metric, mean: F32, scale: float, padded: int) -> F32:
    """Normalise (cosine only), centre, scale and pad vectors of shape ``(n, dimension)``.

    Zero vectors under cosine come out as minus the mean; they are for the caller to leave out.
    """
    prepared = np.zeros((len(vectors), padded), np.float32)
    inner = prepared[:, : vectors.shape[1]]
    if metric == "cosine":
        factors = (1.0 / np.where(norms > 0, norms, 1)).astype(np.float32)
        if np.isfinite(factors).all() and (factors > 0).all():
            np.multiply(vectors, factors[:, None], out=inner)
        else:  # norms at the ends of float32's range
            inner[:] = vectors / np.where(norms > 0, norms, 1)[:, None]
        inner -= mean
    else:
        np.subtract(vectors, mean, out=inner)
    inner *= np.float32(scale)
    return prepared


_NOTHING = np.empty(0, np.float32)
_NOTHING_UNDEFINED = np.empty(0, np.bool_)
