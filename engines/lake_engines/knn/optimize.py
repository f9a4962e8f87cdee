"""Lets an index catch up with its table: encodes what it lacks, sheds what is gone, puts small shards together.

Codes of rows that a shard holds already are copied, not made again, as long as the model stays; it is trained anew
when the vectors have drifted away from it. Memory: as for a build (:mod:`lake_engines.index.building`), for the rows
of the new shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap64

from lake_engines.fragment_reader import ReaderPool
from lake_engines.index import BuiltIndex, IndexReader, Model, build_index
from lake_engines.index.copying import CopiedShard
from lake_engines.index.drift import SAMPLE, drift, mean_error
from lake_engines.index.interface import CalibrationRow, check_metric
from lake_engines.knn.build import SnapshotVectors, open_shard, rows_with_vectors, stored_shard
from lake_engines.knn.coverage import Addresses
from lake_engines.knn.vectors import VectorColumn
from lake_format.errors import CorruptionError
from lake_format.index_upkeep import EncodedRows, IndexUpkeepRequest
from lake_format.model import IndexShard
from lake_format.paths import index_path
from lake_format.row_ids import U64
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot

__all__ = ["ShardState", "choose_shards", "extend_index", "optimize_vector_index"]

_WORN = 0.1
"""A shard is written anew if this share of its rows is gone."""
_STALE = (256, 0.01)
"""Or if so many of its rows, or this share of them, are stale: each of those is compared by itself in a search."""
_LARGER = 10
"""A shard that is more than this many times larger than all smaller ones together stays apart."""
_COPY_FROM = 0.5
"""With fewer rows left to copy, reading a shard is no better than encoding them again."""
_CALIBRATED_FOR = 1.25
"""Calibration holds while rows grow by no more than this."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """How a shard stands: rows it covers, those of them that are live and current, and stale live ones.

    ``fits`` tells whether it is of the index's present model.
    """

    rows: int
    current: int
    stale: int
    fits: bool = True


def choose_shards(states: Sequence[ShardState], pending: int) -> list[int]:
    """The shards whose rows go into a new one, together with ``pending`` rows that none covers.

    Worn ones always. Of the others, by size, all up to the last that is no more than ten times those before it and
    what there is to write together: each shard that stays is so more than ten times larger than all smaller ones.
    There are few, then, and a row is seldom copied.
    """
    worn = [index for index, state in enumerate(states) if _is_worn(state)]
    size = pending + sum(states[index].current + states[index].stale for index in worn)
    rest = sorted((state.current, index) for index, state in enumerate(states) if index not in worn)
    before = size + np.cumsum([0, *(rows for rows, _ in rest)])
    near = [place for place, (rows, _) in enumerate(rest) if rows <= _LARGER * before[place]]
    taken = [index for _, index in rest[: near[-1] + 1]] if near else []
    return sorted(worn + taken)


def _is_worn(state: ShardState) -> bool:
    gone = state.rows - state.current - state.stale
    stale = state.stale >= min(_STALE[0], max(1, _STALE[1] * state.rows))
    return not state.fits or gone >= max(1, _WORN * state.rows) or stale


def optimize_vector_index(
    snapshot: Snapshot, request: IndexUpkeepRequest, pool: ReaderPool
) -> EncodedRows | None:
    """Write the shards that an index lacks; None where it is as it should be.

    Raises
    ------
    InvalidInputError
        A vector with a NaN or infinite value, named by its row id.
    """
    return _Optimizing(snapshot, request, pool).run()


def extend_index(snapshot: Snapshot, request: IndexUpkeepRequest, pool: ReaderPool) -> IndexShard | None:
    """A shard over all rows of a snapshot, by the model that an index has; None where there is none, or no vector.

    The snapshot need not be one the index belongs to: it may hold nothing but rows about to be added.
    """
    return _Optimizing(snapshot, request, pool).extend()


class _Optimizing:
    """One run over one index; the steps share what they found out about its shards."""

    def __init__(self, snapshot: Snapshot, request: IndexUpkeepRequest, pool: ReaderPool) -> None:
        entry = request.entry
        field = field_by_id(snapshot.schema, entry.field_id)
        if field is None:
            raise CorruptionError(f"index {entry.name!r} is over field {entry.field_id}, which is no column")
        self._snapshot, self._request, self._entry = snapshot, request, entry
        self._name = field.name
        self._addresses = Addresses(snapshot)
        self._column = VectorColumn(snapshot, self._addresses, field.name, pool)
        self._live, _ = rows_with_vectors(self._addresses, self._column)
        stale = BitMap64() if entry.stale is None else BitMap64.deserialize(entry.stale)
        self._stale = np.fromiter(stale, np.uint64, len(stale))
        self._readers: dict[int, IndexReader] = {}

    @cached_property
    def _covered(self) -> list[U64]:
        return [shard.decoded_row_ids() for shard in self._entry.shards]

    def extend(self) -> IndexShard | None:
        """Encode all rows, whatever the index covers."""
        model = self._model() if len(self._live) else None
        return None if model is None else self._build(self._live, model, [], None)[1]

    def run(self) -> EncodedRows | None:
        """Choose, write, and say what was done."""
        why = self._reason_to_train()
        if why:
            return self._write(list(range(len(self._entry.shards))), None, why)
        states = [self._state(index) for index in range(len(self._covered))]
        pending = len(self._live) - sum(state.current + state.stale for state in states)
        chosen = list(range(len(states))) if self._request.join else choose_shards(states, pending)
        if not chosen and not pending:
            return None
        model = self._model()
        if model is None:  # without codes there is nothing to share: one shard over all rows
            return self._write(list(range(len(self._entry.shards))), None, "")
        return self._write(chosen, model, "")

    def _reason_to_train(self) -> str:
        wanted, rows = self._request.retrain, len(self._live)
        if wanted is not None:
            return "asked for" if wanted and rows else ""
        if rows == 0:
            return ""
        model, error = self._model(), 0.0
        if model is not None:
            sample = np.linspace(0, rows - 1, min(SAMPLE, rows)).astype(np.int64)
            error = mean_error(model, self._source(self._live).gather(sample))
        return drift(self._entry.parameters, rows, error)

    def _model(self) -> Model | None:
        """The present model, out of the largest shard that has it."""
        wanted = self._entry.parameters.get("model_id")
        if self._request.model is not None:
            return open_shard(self._snapshot, self._request.model).model
        shards = self._entry.shards
        for index in sorted(range(len(shards)), key=lambda one: -shards[one].row_count):
            reader = self._reader(index)
            if reader.model is not None and reader.model_id == wanted:
                return reader.model
        return None

    def _state(self, index: int) -> ShardState:
        covered = self._covered[index]
        live = np.isin(covered, self._live, assume_unique=True)
        stale = np.isin(covered, self._stale, assume_unique=True)
        wanted = self._entry.parameters.get("model_id")
        fits = self._reader(index).model_id == wanted
        return ShardState(len(covered), int((live & ~stale).sum()), int((live & stale).sum()), fits)

    def _write(self, chosen: list[int], model: Model | None, why: str) -> EncodedRows:
        kept = [ids for index, ids in enumerate(self._covered) if index not in chosen]
        row_ids = self._live
        for ids in kept:
            row_ids = np.setdiff1d(row_ids, ids, assume_unique=True)
        copies = [] if model is None else self._copies(chosen, row_ids)
        copied = sum(len(copy.new) for copy in copies)
        covered = sum(len(self._covered[index]) for index in chosen)
        stayed = sum(
            int(np.isin(self._covered[index], row_ids, assume_unique=True).sum()) for index in chosen
        )
        kind, parameters = self._entry.kind, dict(self._entry.parameters)
        shards: tuple[IndexShard, ...] = ()
        if len(row_ids):
            calibration = self._calibration(copies, len(row_ids))
            built, shard = self._build(row_ids, model, copies, calibration)
            shards = (shard,)
            parameters = self._parameters(built, measured=calibration is None, trained=model is None)
            kind = built.kind if model is None else kind
        return EncodedRows(
            shards=shards,
            removed=frozenset(self._entry.shards[index].path for index in chosen),
            kind=kind,
            parameters=parameters,
            encoded=len(row_ids) - copied,
            copied=copied,
            dropped=covered - stayed,
            retrained=why,
        )

    def _copies(self, chosen: list[int], row_ids: U64) -> list[CopiedShard]:
        """The parts of the chosen shards whose codes hold for the new one."""
        copies = []
        for index in chosen:
            reader, covered = self._reader(index), self._covered[index]
            kept = np.isin(covered, row_ids, assume_unique=True)
            kept &= ~np.isin(covered, self._stale, assume_unique=True)
            fits = reader.model is not None and reader.model_id == self._entry.parameters.get("model_id")
            whole = reader.refine_place is not None or not self._refines
            if fits and whole and kept.sum() >= _COPY_FROM * len(covered):
                old = np.flatnonzero(kept)
                new = np.searchsorted(row_ids, covered[kept])
                copies.append(CopiedShard(self._snapshot.store, reader, old, new))
        return copies

    def _calibration(self, copies: list[CopiedShard], rows: int) -> tuple[CalibrationRow, ...] | None:
        """What was measured before, where the rows are mostly those it was measured on; None to measure."""
        if not self._request.measure:
            return ()
        measured = self._entry.parameters.get("calibrated_rows", self._entry.parameters.get("trained_rows"))
        largest = max(copies, key=lambda copy: len(copy.new), default=None)
        if largest is None or not isinstance(measured, int) or rows > _CALIBRATED_FOR * measured:
            return None
        mostly = _CALIBRATED_FOR * len(largest.new) >= rows
        return largest.reader.calibration or None if mostly else None

    def _build(
        self,
        row_ids: U64,
        model: Model | None,
        copies: list[CopiedShard],
        calibration: tuple[CalibrationRow, ...] | None,
    ) -> tuple[BuiltIndex, IndexShard]:
        request, path = self._request, index_path(self._request.new_id())
        with self._snapshot.store.open_writer(path) as writer:
            built = build_index(
                self._source(row_ids),
                metric=check_metric(self._entry.metric),
                writer=writer,
                progress=request.progress,
                threads=request.threads,
                name_row=lambda ordinal: f"row id {int(row_ids[ordinal])} of column {self._name!r}",
                refine=self._refines,
                model=model,
                copied=copies,
                calibration=calibration,
            )
        return built, stored_shard(path, built, row_ids)

    def _parameters(self, built: BuiltIndex, *, measured: bool, trained: bool) -> dict[str, object]:
        if trained:
            return {**built.parameters, "model_id": built.model_id}
        kept: dict[str, object] = dict(self._entry.parameters)
        before = kept.get("calibrated_rows", kept.get("trained_rows", 0))
        if measured and isinstance(before, int) and built.count > before:
            kept["calibrated_rows"] = built.count
        return kept

    @property
    def _refines(self) -> bool:
        return bool(self._entry.parameters.get("refine", 1))

    def _reader(self, index: int) -> IndexReader:
        if index not in self._readers:
            self._readers[index] = open_shard(self._snapshot, self._entry.shards[index])
        return self._readers[index]

    def _source(self, row_ids: U64) -> SnapshotVectors:
        return SnapshotVectors(self._column, self._runs(row_ids))

    def _runs(self, row_ids: U64) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where live rows lie: starts and lengths of runs of addresses, in the order of the row ids."""
        owners, positions = self._snapshot.locations.locate(row_ids)
        addresses = self._addresses.starts[owners] + positions
        heads = np.flatnonzero(np.concatenate([[True], np.diff(addresses) != 1]))[: len(addresses)]
        return addresses[heads], np.diff(np.concatenate([heads, [len(addresses)]]))
