"""Searches one index file, memory-mapped where the store is a local disk and by range requests elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lake_engines.index.interface import F32, I64, U8, CalibrationRow, Candidates, Metric, SearchStats
from lake_engines.index.kernel import Coarse, ListScanner, selector, use_threads
from lake_engines.index.layout import FLAT_BLOB, HEAD_BLOB, MODEL_BLOB, REFINE_BLOB, SCAN_BLOB, Flat, Head
from lake_engines.index.list_store import MappedLists, RangedLists, Transfer
from lake_engines.index.model import Model, model_id
from lake_engines.index.planning import Plan, plan_search
from lake_engines.index.refinement import RefineRegion
from lake_engines.index.searching import Search, Shard
from lake_engines.index.selection import Selection
from lake_format.checksum import crc32
from lake_format.errors import (
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)
from lake_format.puffin import MAGIC, FileMetadata, decode_footer
from lake_format.store.base import ByteRange, Store

__all__ = ["IndexReader"]

_CACHE_BYTES = 64 << 20
_MODERATE = 1e15  # no product of values below it leaves float32
_PLANS_KEPT = 256
_SAMPLE_STRIDE = 8  # of a list's ordinals, to estimate how many of them are selected


class IndexReader:
    """One index file, open for search. Safe for concurrent use by threads; see :meth:`open`.

    Attributes
    ----------
    count, dimension, metric
        Of the indexed vectors.
    model_id
        Name of the model, equal for shards that share one; empty for an index without codes.
    refine_place
        Where the refinement region lies in the file; None where there is none.
    """

    def __init__(
        self,
        *,
        path: str,
        count: int,
        dimension: int,
        metric: Metric,
        shard: Shard | None,
        refine_place: ByteRange | None = None,
    ) -> None:
        self.path = path
        self.refine_place = refine_place
        self.count = count
        self.dimension = dimension
        self.metric: Metric = metric
        self.model_id = shard.head.model_id if shard else ""
        self._shard = shard
        self._plans: dict[tuple[object, ...], Plan] = {}

    @classmethod
    def open(
        cls,
        store: Store,
        path: str,
        *,
        size: int,
        head_length: int,
        head_crc: int | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ) -> IndexReader:
        """Open an index file: one request where the store is not a local disk.

        Parameters
        ----------
        size, head_length, head_crc
            As in :class:`BuiltIndex`, from the manifest.
        cache_bytes
            Bytes of lists to keep, where they have to be fetched.

        Raises
        ------
        NotFoundError
            No such object.
        CorruptionError
            Truncated, altered, or not an index.
        """
        local = store.local_path(path)
        region: U8 | None = None
        if local is not None:
            region = _map(local, path)
            tail, actual = region[-head_length:].tobytes(), len(region)
            if actual >= len(MAGIC) and region[: len(MAGIC)].tobytes() != MAGIC:
                raise CorruptionError(f"{path}: not a Puffin file", fix="rebuild the index")
        else:
            tail, actual = store.get_suffix(path, head_length)
        if actual != size or len(tail) != head_length:
            raise CorruptionError(
                f"{path}: the index file has {actual} bytes, the manifest says {size}",
                fix="rebuild the index",
            )
        if head_crc is not None and crc32(tail) != head_crc:
            raise CorruptionError(f"{path}: the index head is altered (checksum)", fix="rebuild the index")
        metadata = decode_footer(tail, size=size, where=path)
        if metadata.find(FLAT_BLOB):
            flat = Flat.decode(_part(tail, metadata, FLAT_BLOB, size, path), path)
            return cls(path=path, count=flat.count, dimension=flat.dimension, metric=flat.metric, shard=None)
        shard = _open_shard(store, path, metadata, tail, size, region, cache_bytes)
        model, blob = shard.model, metadata.find(REFINE_BLOB)
        return cls(
            path=path,
            count=shard.head.count,
            dimension=model.dimension,
            metric=model.metric,
            shard=shard,
            refine_place=ByteRange(path, blob.offset, blob.length) if blob else None,
        )

    @property
    def shard(self) -> Shard:
        """The parts of an index with codes; only for one that has them."""
        assert self._shard is not None
        return self._shard

    @property
    def model(self) -> Model | None:
        """The trained model, to build further shards with; None for an index without codes."""
        return self._shard.model if self._shard else None

    @property
    def calibration(self) -> tuple[CalibrationRow, ...]:
        """What was measured when the index was built; empty for an index without codes."""
        return self._shard.head.calibration if self._shard else ()

    def lists(self, at_once: int) -> Iterator[tuple[int, I64]]:
        """Every list's number and the ordinals in it, ``at_once`` lists loaded at a time; none without codes."""
        if self._shard is None:
            return
        filled = np.flatnonzero(self._shard.head.table.counts[:-1])
        for start in range(0, len(filled), at_once):
            part = filled[start : start + at_once]
            with self._shard.lists.loaded(part, Transfer()) as loaded:
                for number in part.tolist():
                    yield number, np.array(loaded.ordinals(number))

    def search(
        self,
        queries: F32,
        k: int,
        *,
        recall: float = 0.95,
        selection: Selection | npt.NDArray[np.bool_] | None = None,
        probes: int | None = None,
        candidates: int | None = None,
        refine: bool | None = None,
        threads: int | None = None,
    ) -> Candidates:
        """Find the rows worth an exact comparison.

        Comparing all returned candidates exactly and keeping the best ``k`` gives the wanted recall. At least
        ``min(k, selected vectors)`` candidates come back for every query, whatever the options.

        Parameters
        ----------
        queries
            Shape ``(n, dimension)`` or ``(dimension,)``, float32.
        k
            Number of neighbours wanted, at least 1.
        recall
            Wanted mean recall at ``k``, in (0, 1]. At 1 every list is scanned.
        selection
            Which ordinals may be returned; a boolean mask or a :class:`Selection` (quicker when reused).
        probes, candidates
            Override the calibrated numbers of lists to scan and candidates to return.
        refine
            Whether to narrow candidates by the int8 records, where the file has them and is
            mapped; decided by the number of candidates if None.
        threads
            For batches of queries; all processors by default.

        Raises
        ------
        InvalidInputError
            A wrong dimension, NaN or infinity in a query, or an option out of range.
        CorruptionError
            A list that was touched for the first time is altered.
        """
        queries, extreme = self._checked(queries, k, recall)
        chosen = self._selection(selection)
        available = self.count if chosen is None else chosen.count
        need = min(k, available)
        shard = self._shard
        if shard is None or need == 0:
            return self._everything(len(queries), chosen, need)
        plan = self._plan(k, recall, available, probes, candidates, refine)
        search = Search(shard, plan, need, chosen, selector(chosen.bitmap) if chosen else None)
        count = 1 if len(queries) == 1 else threads or os.cpu_count() or 1
        before = use_threads(count)
        try:
            if extreme:  # float32 overflows on the way, to infinite distances: no cause for warnings
                with np.errstate(over="ignore", invalid="ignore"):
                    return search.run(queries)
            return search.run(queries)
        finally:
            use_threads(before)

    def _plan(
        self,
        k: int,
        recall: float,
        selected: int,
        probes: int | None,
        candidates: int | None,
        refine: bool | None,
    ) -> Plan:
        """Plan a search, or take the plan of an equal one before."""
        assert self._shard is not None
        key = (k, recall, selected, probes, candidates, refine)
        plan = self._plans.get(key)
        if plan is None:
            plan = plan_search(
                self.calibration,
                k,
                recall,
                count=self.count,
                lists=self._shard.model.list_count,
                selected=selected,
                can_refine=self._shard.refine is not None,
                probes=probes,
                candidates=candidates,
                refine=refine,
            )
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _checked(self, queries: F32, k: int, recall: float) -> tuple[F32, bool]:
        """Check the arguments; returns the queries as a matrix, and whether they hold extreme values."""
        array = np.asarray(queries, dtype=np.float32)
        if array.ndim == 1:
            array = array.reshape(1, -1)
        if array.ndim != 2 or array.shape[1] != self.dimension:
            raise InvalidInputError(
                f"a query has shape {np.shape(queries)}, but {self.path} is over {self.dimension} components"
            )
        array = np.ascontiguousarray(array)
        extreme = not (array.size == 0 or np.abs(array).max() < _MODERATE)  # true for NaN as well
        if extreme and not np.isfinite(array).all():
            query, component = np.argwhere(~np.isfinite(array))[0].tolist()
            raise InvalidInputError(
                f"query {query} holds {array[query, component]} at component {component}",
                fix="queries must be finite numbers",
            )
        if k < 1:
            raise InvalidInputError(f"k must be at least 1, not {k}")
        if not 0 < recall <= 1:
            raise InvalidInputError(f"recall must lie in (0, 1], not {recall}")
        return array, extreme

    def _selection(self, selection: Selection | npt.NDArray[np.bool_] | None) -> Selection | None:
        if selection is None:
            return None
        if not isinstance(selection, Selection):
            if selection.dtype != np.bool_ or selection.ndim != 1:
                raise InvalidInputError(
                    f"a selection is a boolean mask, not {selection.ndim}-d {selection.dtype}"
                )
            selection = Selection.from_mask(selection)
        if selection.total != self.count:
            raise InvalidInputError(
                f"the selection is over {selection.total} vectors, the index holds {self.count}"
            )
        return None if selection.count == self.count else selection

    def _everything(self, queries: int, chosen: Selection | None, need: int) -> Candidates:
        """Every selected vector is a candidate: the index holds too few for codes."""
        if need == 0:
            row: I64 = np.empty(0, np.int64)
        else:
            row = np.arange(self.count) if chosen is None else chosen.first(self.count)
        ordinals = np.broadcast_to(row, (queries, len(row)))
        distances = np.full(ordinals.shape, np.nan, np.float32)
        return Candidates(ordinals=ordinals, distances=distances, stats=SearchStats(complete=True))


def _map(local: str, path: str) -> U8:
    try:
        return np.memmap(local, np.uint8, "r").view(np.ndarray)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: the index file is gone", fix="rebuild the index") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise CorruptionError(f"{path}: the index file is empty", fix="rebuild the index") from error
    except OSError as error:
        raise StorageError(f"{path}: the index file cannot be mapped ({error})") from error


def _part(tail: bytes, metadata: FileMetadata, kind: str, size: int, path: str) -> bytes:
    """One blob out of the bytes of the end of the file."""
    blob = metadata.find(kind)
    if blob is None:
        raise CorruptionError(f"{path}: not an index, or of another kind: it has no {kind!r} blob")
    if blob.compression_codec is not None:
        raise UnsupportedError(f"{path}: blob {kind!r} is compressed")
    start = blob.offset - (size - len(tail))
    if start < 0:
        raise CorruptionError(f"{path}: blob {kind!r} lies before the head the manifest speaks of")
    return tail[start : start + blob.length]


def _open_shard(
    store: Store,
    path: str,
    metadata: FileMetadata,
    tail: bytes,
    size: int,
    region: U8 | None,
    cache_bytes: int,
) -> Shard:
    encoded = _part(tail, metadata, MODEL_BLOB, size, path)
    model = Model.decode(encoded, path)
    scan = metadata.find(SCAN_BLOB)
    if scan is None:
        raise CorruptionError(f"{path}: the index has no {SCAN_BLOB!r} blob")
    head = Head.decode(_part(tail, metadata, HEAD_BLOB, size, path), scan_length=scan.length, where=path)
    if head.model_id != model_id(encoded):
        raise CorruptionError(f"{path}: the index was built with another model than it holds")
    if head.code_size != model.code_size or len(head.table.counts) != model.list_count + 1:
        raise CorruptionError(f"{path}: the index head does not fit its model")
    coarse = Coarse(model)
    if region is None:
        lists = RangedLists(
            store,
            path,
            scan.offset,
            head.table,
            head.code_size,
            lambda: ListScanner(model, coarse),
            cache_bytes,
        )
        return Shard(model, head, coarse, lists, None)
    scanner = ListScanner(model, coarse)
    mapped = MappedLists(
        region[scan.offset : scan.offset + scan.length], head.table, head.code_size, scanner, path
    )
    blob = metadata.find(REFINE_BLOB)
    refine = None
    if blob is not None:
        refine = RefineRegion(
            region[blob.offset : blob.offset + blob.length], head.count, model.dimension, path
        )
    return Shard(model, head, coarse, mapped, refine)
