"""The only file that touches faiss: scanning packed lists, clustering, quantising, exact neighbours.

faiss is used as a kernel over memory that we own. An ``OnDiskInvertedLists`` without a file takes absolute addresses,
so that a list in a mapped file or a fetched buffer is scanned where it lies. Whoever sets an address keeps
the memory alive for as long as a scan may run.
"""

from __future__ import annotations

import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import F32, I64, U8
from lake_engines.index.model import CODEWORDS, Model
from lake_engines.index.packing import BLOCK

__all__ = [
    "Coarse",
    "Codec",
    "InnerProducts",
    "ListScanner",
    "Nearest",
    "faiss_module",
    "kernel_threads",
    "selector",
    "train_codebook",
    "use_threads",
]


@cache
def faiss_module() -> Any:
    """Import faiss on first use.

    Its bundled OpenBLAS picks an old kernel on processors newer than itself, which halves the speed of
    assignment; naming a kernel helps where AVX-512 is there. The variable is only set while faiss is
    first loaded, never overrides the user's choice, and is gone afterwards.
    """
    name = "OPENBLAS_CORETYPE"
    hint = "faiss" not in sys.modules and name not in os.environ and _has_avx512()
    if hint:
        os.environ[name] = "SkylakeX"
    try:
        import faiss  # noqa: PLC0415 (heavy: only when vectors are indexed or searched)
    finally:
        if hint:
            os.environ.pop(name, None)
    return faiss


def _has_avx512() -> bool:
    numpy_core: Any = import_module("numpy._core._multiarray_umath")
    return bool(getattr(numpy_core, "__cpu_features__", {}).get("AVX512_SKX", False))


def use_threads(count: int) -> int:
    """Set how many threads faiss uses for calls from this thread; returns what it was."""
    faiss = faiss_module()
    before = int(faiss.omp_get_max_threads())
    if before != count:
        faiss.omp_set_num_threads(count)
    return before


def kernel_threads(count: int) -> ThreadPoolExecutor:
    """Python threads that each run the kernel single-threaded."""
    return ThreadPoolExecutor(count, initializer=use_threads, initargs=(1,))


class Coarse:
    """Finds the lists nearest to queries. Immutable: shared by scanners and threads."""

    def __init__(self, model: Model) -> None:
        faiss = faiss_module()
        vectors = np.zeros((model.list_count, model.width), np.float32)
        vectors[:, : model.padded] = model.centroids
        vectors[:, model.padded] = model.biases()  # meets the query's 1 (l2, cosine)
        self.index = faiss.IndexFlatIP(model.width)
        self.index.add(vectors)
        self._pointer = faiss.swig_ptr

    def nearest(self, queries: F32, probes: int) -> tuple[F32, I64]:
        """Return the scores and numbers of the ``probes`` best lists, best first; shapes ``(n, probes)``."""
        scores = np.empty((len(queries), probes), np.float32)
        lists = np.empty((len(queries), probes), np.int64)
        pointer = self._pointer
        self.index.search_c(len(queries), pointer(queries), probes, pointer(scores), pointer(lists))
        return scores, lists


class ListScanner:
    """Scores the vectors of given lists against queries.

    ``lists`` is a table of (count, capacity in vectors, address) per list; faiss reads it during a scan,
    so a table that another thread scans with must not change.
    """

    def __init__(self, model: Model, coarse: Coarse) -> None:
        faiss = faiss_module()
        tables = len(model.corrections)
        self._coarse = coarse  # faiss keeps a bare pointer to it
        self._index = faiss.IndexIVFPQFastScan(
            coarse.index,
            model.width,
            model.list_count,
            len(model.codebook) + tables,
            4,
            faiss.METRIC_INNER_PRODUCT,
            BLOCK,
            False,
        )
        self._index.by_residual = True
        codebook = np.zeros((len(model.codebook) + tables, CODEWORDS, model.sub), np.float32)
        codebook[: len(model.codebook)] = model.codebook
        codebook[len(model.codebook) :, :, 0] = model.corrections
        faiss.copy_array_to_vector(codebook.ravel(), self._index.pq.centroids)
        self._index.is_trained = True
        self._index.ntotal = 1
        # A NULL base pointer makes offsets absolute addresses, and leaves nothing for the destructor to unmap.
        self._storage = faiss.OnDiskInvertedLists(model.list_count, model.code_size, "")
        self._storage.read_only = True
        self._storage.prefetch_nthread = 0
        self._index.replace_invlists(self._storage, False)
        address = int(self._storage.lists.data().this)
        table = (ctypes.c_uint64 * (3 * model.list_count)).from_address(address)
        self._table: npt.NDArray[np.uint64] = np.ctypeslib.as_array(table).reshape(-1, 3)
        self._table[:] = 0
        self._parameters = faiss.SearchParametersIVF
        self._pointer = faiss.swig_ptr

    def place(self, lists: I64, counts: I64, addresses: npt.NDArray[np.uint64]) -> None:
        """Tell where lists lie: packed codes at ``addresses``, directly followed by int64 ordinals."""
        rows = np.empty((len(lists), 3), np.uint64)
        rows[:, 0] = counts
        rows[:, 1] = -(-counts // BLOCK) * BLOCK
        rows[:, 2] = addresses
        rows[counts == 0] = 0
        self._table[lists] = rows

    def scan(self, queries: F32, scores: F32, lists: I64, width: int, chosen: Any | None) -> tuple[F32, I64]:
        """Return the ``width`` best scores and ordinals of each query, best first, padded with ordinal -1.

        Parameters
        ----------
        queries
            Extended queries, shape ``(n, model.width)``, contiguous.
        scores, lists
            From :meth:`Coarse.nearest`, shapes ``(n, probes)``, contiguous.
        chosen
            From :func:`selector`, or None.
        """
        parameters = self._parameters()
        parameters.nprobe = lists.shape[1]
        if chosen is not None:
            parameters.sel = chosen
        best = np.empty((len(queries), width), np.float32)
        ordinals = np.empty((len(queries), width), np.int64)
        pointer = self._pointer
        self._index.search_preassigned_c(
            len(queries),
            pointer(queries),
            width,
            pointer(lists),
            pointer(scores),
            pointer(best),
            pointer(ordinals),
            False,
            parameters,
        )
        return best, ordinals


def selector(bitmap: U8) -> Any:
    """Make a bitmap over ordinals usable in scans; the caller keeps the result while it is used."""
    return faiss_module().IDSelectorBitmap(bitmap)


class Codec:
    """Assigns prepared vectors to lists and quantises their residuals. Immutable: shared by threads."""

    def __init__(self, model: Model) -> None:
        self._quantiser = _product_quantiser(model.codebook)
        self._quantiser.sync_transposed_centroids()  # a faster search for the nearest codeword, same answers
        self._nearest = Nearest(model.centroids)

    def assign(self, prepared: F32) -> I64:
        """Return the number of the nearest list for each vector."""
        return self._nearest.assign(prepared)

    def quantise(self, residuals: F32) -> tuple[U8, F32]:
        """Return 4-bit codes, two a byte, and the residuals they stand for."""
        codes: U8 = self._quantiser.compute_codes(residuals)
        return codes, self._quantiser.decode(codes)


def _product_quantiser(codebook: F32) -> Any:
    faiss = faiss_module()
    subquantisers, _, sub = codebook.shape
    quantiser = faiss.ProductQuantizer(subquantisers * sub, subquantisers, 4)
    faiss.copy_array_to_vector(np.ascontiguousarray(codebook).ravel(), quantiser.centroids)
    return quantiser


def train_codebook(residuals: F32, sub: int, seed: int) -> F32:
    """Train 16 codewords for each run of ``sub`` components by k-means; shape ``(d / sub, 16, sub)``."""
    faiss = faiss_module()
    components = residuals.shape[1]
    quantiser = faiss.ProductQuantizer(components, components // sub, 4)
    quantiser.cp.niter = 8
    quantiser.cp.seed = seed
    quantiser.cp.min_points_per_centroid = 1
    quantiser.cp.max_points_per_centroid = len(residuals) // CODEWORDS + 1
    quantiser.train(residuals)
    codebook: F32 = faiss.vector_to_array(quantiser.centroids).reshape(components // sub, CODEWORDS, sub)
    return codebook


class Nearest:
    """Finds the nearest of a set of centroids. Immutable: shared by threads."""

    def __init__(self, centroids: F32) -> None:
        self._index = faiss_module().IndexFlatL2(centroids.shape[1])
        self._index.add(centroids)

    def assign(self, vectors: F32) -> I64:
        """Return the number of the nearest centroid for each vector."""
        lists: I64 = self._index.assign(vectors, 1).ravel()
        return lists


class InnerProducts:
    """Multiplies vectors with a fixed set of queries. Immutable: shared by threads."""

    def __init__(self, queries: F32) -> None:
        faiss = faiss_module()
        count, dimension = queries.shape
        # A linear map is faiss's way to its matrix product, which runs in the calling thread as its other calls do.
        self._map = faiss.LinearTransform(dimension, count, False)
        faiss.copy_array_to_vector(queries.ravel(), self._map.A)
        self._map.is_trained = True

    def with_rows(self, vectors: F32) -> F32:
        """Return products of shape ``(vectors, queries)``."""
        products: F32 = self._map.apply(vectors)
        return products
