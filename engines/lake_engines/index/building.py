"""Builds an index file in one streaming pass over the vectors.

Memory: the training sample (at most about 200 MB, 45 MB for 128 components), a few blocks per thread, and per
vector its code twice plus 18 bytes (about 90 MB for a million vectors of 128 components). The vectors
themselves and the refinement region only stream through.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lake_engines.index.calibration import Measurement, calibrate
from lake_engines.index.copying import CopiedShard
from lake_engines.index.drift import FLAT_LIMIT
from lake_engines.index.encoding import Encoder, RowNamer, check_finite
from lake_engines.index.ground_truth import GroundTruth, held_out_queries
from lake_engines.index.interface import (
    F32,
    I64,
    U8,
    BuiltIndex,
    CalibrationRow,
    Metric,
    Progress,
    VectorSource,
    check_metric,
)
from lake_engines.index.kernel import Coarse, ListScanner, kernel_threads, use_threads
from lake_engines.index.layout import (
    ALIGNMENT,
    FLAT_BLOB,
    HEAD_BLOB,
    MODEL_BLOB,
    REFINE_BLOB,
    SCAN_BLOB,
    Flat,
    Head,
    ListTable,
)
from lake_engines.index.list_store import place_all
from lake_engines.index.model import Model, model_id, row_norms
from lake_engines.index.packing import pack_codes
from lake_engines.index.refinement import RECORDS_PER_CHECKSUM, chunk_checksums, record_size
from lake_engines.index.training import check_list_count, train_index
from lake_format.checksum import crc32
from lake_format.errors import InvalidInputError
from lake_format.puffin import ByteSink, PuffinWriter

__all__ = ["FLAT_LIMIT", "build_index", "write_empty"]

_BLOCK_FLOATS = 1 << 20  # components per block: what fits in a core's cache a few times over
_MAX_COUNT = (1 << 32) - 1


def build_index(
    source: VectorSource,
    *,
    metric: Metric,
    writer: ByteSink,
    progress: Progress | None = None,
    seed: int = 0,
    threads: int | None = None,
    lists: int | None = None,
    refine: bool = True,
    model: Model | None = None,
    copied: Sequence[CopiedShard] = (),
    calibration: tuple[CalibrationRow, ...] | None = None,
    fields: Sequence[int] = (),
    name_row: RowNamer = "ordinal {}".format,
) -> BuiltIndex:
    """Index vectors and write the file; the caller closes ``writer`` (or aborts it on an error).

    Parameters
    ----------
    source
        The vectors; read once front to back by ``threads`` threads, plus samples.
    metric
        ``l2``, ``cosine`` or ``ip``.
    progress
        Called from the calling thread.
    seed
        Makes sampling and clustering repeatable.
    threads
        How many to use; all processors by default.
    lists
        Number of lists; chosen from the number of vectors by default.
    refine
        Also store the int8 refinement region (``dimension + 8`` bytes per vector).
    model
        Use this model instead of training one: the shard can then be searched together with others of
        the model.
    copied
        Shards of that model whose codes are taken over for the vectors they hold.
    calibration
        Use these rows, or none, instead of measuring; vectors that are copied are then not read at all. None
        measures.
    fields
        Field ids to record in the container.
    name_row
        How to call the vector with an ordinal in an error message.

    Raises
    ------
    InvalidInputError
        Unknown metric, too many vectors, a model that does not fit, or a vector with NaN or infinity.
    """
    _check_arguments(source, check_metric(metric), lists, model)
    report = progress or (lambda stage, done, total: None)
    job = _Build(
        source=source,
        metric=metric,
        output=_Tail(writer),
        report=report,
        threads=threads or os.cpu_count() or 1,
        fields=tuple(fields),
        name_row=name_row,
        copied=tuple(copied),
        calibration=calibration,
    )
    if model is None and source.count < FLAT_LIMIT:
        return job.build_flat()
    before = use_threads(1)
    try:
        if model is None:
            report("train", 0, 1)
            model, notes = train_index(
                source, metric, lists=lists, seed=seed, threads=job.threads, name_row=name_row
            )
            job.notes.update(notes)
            report("train", 1, 1)
        return job.build(model, seed, refine=refine)
    finally:
        use_threads(before)


def write_empty(model: Model, writer: ByteSink, *, refine: bool) -> BuiltIndex:
    """Write a shard of no vector: what hands a model on to whoever encodes vectors with it."""
    nothing = _NoVectors(model.dimension)
    return build_index(
        nothing, metric=model.metric, writer=writer, refine=refine, model=model, calibration=()
    )


@dataclass(frozen=True, slots=True)
class _NoVectors:
    dimension: int
    count: int = 0

    def read(self, start: int, stop: int) -> F32:
        return np.empty((0, self.dimension), np.float32)

    def gather(self, ordinals: I64) -> F32:
        return np.empty((0, self.dimension), np.float32)


def _check_arguments(source: VectorSource, metric: Metric, lists: int | None, model: Model | None) -> None:
    if source.dimension < 1:
        raise InvalidInputError(f"vectors of {source.dimension} components cannot be indexed")
    if source.count > _MAX_COUNT:
        raise InvalidInputError(
            f"{source.count} vectors are more than one index file holds", fix="build several shards"
        )
    check_list_count(lists)
    if model is not None and (model.dimension, model.metric) != (source.dimension, metric):
        raise InvalidInputError(
            f"a model for {model.metric} over {model.dimension} components does not fit "
            f"{metric} over {source.dimension}"
        )


class _Tail:
    """Passes bytes on and keeps those written since :meth:`mark`, to checksum the end of the file."""

    def __init__(self, sink: ByteSink) -> None:
        self._sink = sink
        self.written = 0
        self._crc: int | None = None
        self._marked_at = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        self._sink.write(data)
        length = memoryview(data).nbytes
        self.written += length
        if self._crc is not None:
            self._crc = crc32(data, self._crc)
        return length

    def mark(self) -> None:
        self._crc, self._marked_at = 0, self.written

    def measured(self) -> tuple[int, int]:
        """Length and CRC-32 of what came since the mark."""
        assert self._crc is not None
        return self.written - self._marked_at, self._crc


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What the pass leaves in memory, filled in as it goes."""

    lists: npt.NDArray[np.uint16]
    codes: U8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Build:
    """One build: the steps share these."""

    source: VectorSource
    metric: Metric
    output: _Tail
    report: Progress
    threads: int
    fields: tuple[int, ...]
    name_row: RowNamer
    copied: tuple[CopiedShard, ...] = ()
    calibration: tuple[CalibrationRow, ...] | None = None
    notes: dict[str, int | float] = field(default_factory=dict)
    """Figures of the training, to be kept with the index."""

    def build_flat(self) -> BuiltIndex:
        """Write an index that holds no codes; the vectors are still checked."""
        for start, stop in _spans(self.source.count, 256):
            check_finite(row_norms(self.source.read(start, stop)), start, self.name_row)
            self.report("encode", stop, self.source.count)
        container = PuffinWriter(self.output, properties=_CREATED_BY)
        self.output.mark()
        container.begin()
        flat = Flat(metric=self.metric, dimension=self.source.dimension, count=self.source.count)
        container.write(flat.encode())
        container.end(FLAT_BLOB, fields=self.fields, properties=self._describe())
        container.finish()
        return self._result("flat", "", {}, ())

    def build(self, model: Model, seed: int, *, refine: bool) -> BuiltIndex:
        """Encode, pack, calibrate and write."""
        container = PuffinWriter(self.output, properties=_CREATED_BY)
        if self.calibration is not None:
            encoded = self._encode(model, None, container, refine=refine)
            table, region = _pack(encoded, model, container.position)
            del encoded
            return self._write(model, table, region, self.calibration, container, refine=refine)
        held_out = held_out_queries(self.source, model, seed)
        truth = GroundTruth(held_out, model)
        encoded = self._encode(model, truth, container, refine=refine)
        table, region = _pack(encoded, model, container.position)
        list_of = encoded.lists
        del encoded  # the codes are in the region now
        coarse = Coarse(model)
        scanner = ListScanner(model, coarse)
        place_all(scanner, table, region.ctypes.data)
        self.report("calibrate", 0, 1)
        rows = calibrate(
            Measurement(
                model,
                held_out,
                model.prepare_queries(held_out.queries),
                truth.result(),
                list_of,
                coarse,
                scanner,
                self.source,
                refine,
            )
        )
        self.report("calibrate", 1, 1)
        return self._write(model, table, region, rows, container, refine=refine)

    def _encode(
        self, model: Model, truth: GroundTruth | None, container: PuffinWriter, *, refine: bool
    ) -> _Encoded:
        """Stream the vectors through; refinement records go straight to the file."""
        count = self.source.count
        encoded = _Encoded(np.empty(count, np.uint16), np.empty((count, model.code_size), np.uint8))
        known = np.zeros(count, bool)
        for shard in self.copied:
            shard.copy_codes(encoded.lists, encoded.codes)
            known[shard.new] = True
        encoder = Encoder(model, refine=refine, name_row=self.name_row)

        def work(start: int, stop: int) -> U8 | None:
            records = None
            if not known[start:stop].any():
                block = encoder.encode(self.source.read(start, stop), np.arange(start, stop))
                encoded.lists[start:stop], encoded.codes[start:stop] = block.lists, block.codes
                prepared, records = block.prepared, block.records
            else:
                prepared, records = self._complete(encoder, model, encoded, known, (start, stop), truth)
            if truth is not None:
                directed = np.flatnonzero(encoded.lists[start:stop] < model.list_count)
                whole = len(directed) == stop - start
                truth.add(prepared if whole else prepared[directed], directed + start)
            return records if refine else None

        checksums: list[int] = []
        if refine:
            container.begin()
        rows = max(1, _BLOCK_FLOATS // model.padded // RECORDS_PER_CHECKSUM) * RECORDS_PER_CHECKSUM
        for stop, records in self._in_order(work, list(_spans(count, rows))):
            if records is not None:
                container.write(records.data)
                checksums += chunk_checksums(records)
            self.report("encode", stop, count)
        if refine:
            table = np.array(checksums, "<u4").tobytes()
            container.write(table + crc32(table).to_bytes(4, "little"))
            container.end(
                REFINE_BLOB, fields=self.fields, properties={"record-size": str(record_size(model.dimension))}
            )
        return encoded

    def _complete(
        self,
        encoder: Encoder,
        model: Model,
        encoded: _Encoded,
        known: npt.NDArray[np.bool_],
        span: tuple[int, int],
        truth: GroundTruth | None,
    ) -> tuple[F32, U8]:
        """Encode the vectors of a span that were not copied; returns prepared vectors and records of all.

        Where no truth is collected, what was copied is not read, and no prepared vectors come back.
        """
        start, stop = span
        records = np.empty((stop - start, record_size(model.dimension)), np.uint8)
        for shard in self.copied:
            if shard.reader.refine_place is not None:
                ordinals, found = shard.records(start, stop)
                records[ordinals - start] = found
        missing = start + np.flatnonzero(~known[start:stop])
        prepared = np.empty((0, model.padded), np.float32)
        raw = None
        if truth is not None:
            raw = self.source.read(start, stop)
            prepared = model.prepare_vectors(raw, row_norms(raw))
        if len(missing):
            block = encoder.encode(
                self.source.gather(missing) if raw is None else raw[missing - start], missing
            )
            encoded.lists[missing], encoded.codes[missing] = block.lists, block.codes
            if block.records is not None:
                records[missing - start] = block.records
        return prepared, records

    def _in_order(
        self, work: Callable[[int, int], U8 | None], spans: list[tuple[int, int]]
    ) -> Iterator[tuple[int, U8 | None]]:
        """Run ``work`` on threads, a few spans ahead at most; yields (stop, result) in order."""
        waiting: deque[tuple[int, Future[U8 | None]]] = deque()
        with kernel_threads(self.threads) as pool:
            try:
                for start, stop in spans:
                    waiting.append((stop, pool.submit(work, start, stop)))
                    if len(waiting) > 2 * self.threads:
                        done, future = waiting.popleft()
                        yield done, future.result()
                while waiting:
                    done, future = waiting.popleft()
                    yield done, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def _write(
        self,
        model: Model,
        table: ListTable,
        region: U8,
        rows: tuple[CalibrationRow, ...],
        container: PuffinWriter,
        *,
        refine: bool,
    ) -> BuiltIndex:
        encoded_model = model.encode()
        name = model_id(encoded_model)
        self.report("write", 0, 1)
        container.begin()
        for start, stop in _spans(len(region), 8 << 20):
            container.write(region[start:stop].data)
        container.end(SCAN_BLOB, fields=self.fields)
        self.output.mark()
        container.begin()
        container.write(encoded_model)
        container.end(MODEL_BLOB, fields=self.fields, properties=self._describe() | {"model-id": name})
        head = Head(
            count=self.source.count, code_size=model.code_size, model_id=name, table=table, calibration=rows
        )
        container.begin()
        container.write(head.encode())
        container.end(
            HEAD_BLOB, fields=self.fields, properties={"model-id": name, "count": str(self.source.count)}
        )
        container.finish()
        self.report("write", 1, 1)
        parameters: dict[str, int | float | str] = {
            "lists": model.list_count,
            "subquantisers": len(model.codebook),
            "correction_tables": len(model.corrections),
            "code_size": model.code_size,
            "refine": int(refine),
            **self.notes,
        }
        return self._result("ivf-pq4", name, parameters, rows)

    def _describe(self) -> dict[str, str]:
        return {"metric": self.metric, "dimension": str(self.source.dimension)}

    def _result(
        self,
        kind: str,
        name: str,
        parameters: dict[str, int | float | str],
        rows: tuple[CalibrationRow, ...],
    ) -> BuiltIndex:
        length, crc = self.output.measured()
        return BuiltIndex(
            size=self.output.written,
            head_length=length,
            head_crc=crc,
            count=self.source.count,
            dimension=self.source.dimension,
            metric=self.metric,
            kind=kind,
            model_id=name,
            parameters=parameters,
            calibration=rows,
        )


_CREATED_BY = {"created-by": "lake-format"}


def _spans(count: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, count)) for start in range(0, count, step))


def _pack(encoded: _Encoded, model: Model, position: int) -> tuple[ListTable, U8]:
    """Bring codes into list order, packed, each list followed by its ordinals.

    ``position`` is where the region will start in the file: lists are aligned there.
    """
    entries = model.list_count + 1
    counts = np.bincount(encoded.lists, minlength=entries).astype(np.int64)
    table = ListTable(np.zeros(entries, np.int64), counts, np.zeros(entries, np.uint32))
    lengths = table.lengths(model.code_size)
    ends = np.cumsum(-(-lengths // ALIGNMENT) * ALIGNMENT)
    first = -position % ALIGNMENT
    table.offsets[:] = np.concatenate([[0], ends[:-1]]) + first
    region = np.zeros(first + int(ends[-1]), np.uint8)
    order = np.argsort(encoded.lists, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    for number in range(entries):
        ordinals = order[starts[number] : starts[number + 1]]
        offset, length = int(table.offsets[number]), int(lengths[number])
        part = region[offset : offset + length]
        split = length - 8 * len(ordinals)
        if split:
            part[:split] = pack_codes(encoded.codes[ordinals])
        part[split:] = ordinals.astype("<i8").view(np.uint8)
        table.checksums[number] = crc32(part.data)
    return table, region
