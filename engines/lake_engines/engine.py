"""The default engine: ties scan, take, write, search and index build to one set of open files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa

from lake_engines.changes.computing import check_expressions, completed, declare
from lake_engines.evolution.filling import complete_fragments, fill_column, fill_inputs
from lake_engines.evolution.sources import constant, gathered, infer_type
from lake_engines.fragment_reader import ReaderPool
from lake_engines.scan import count_rows, scan_parts, scan_rows
from lake_engines.take import take_rows
from lake_engines.write import discard, discard_objects, write_fragments
from lake_format.compaction import RewriteRequest, Rewritten
from lake_format.computed_columns import StoredExpression
from lake_format.engine import IndexRequest, ScanRequest, SearchAnswer, SearchRequest, WriteRequest, Written
from lake_format.filling import FillRequest
from lake_format.index_upkeep import EncodedRows, IndexUpkeepRequest
from lake_format.key_index import KeyIndex, KeyRunsMerged
from lake_format.model import ColumnGroup, Fragment, IndexEntry, IndexShard, NewFragment
from lake_format.row_edits import CarriedRows, RowEdits, RowPlan, RowRequest, RowsPlanned
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics
from lake_format.store.base import Store
from lake_format.verification import Problem

if TYPE_CHECKING:
    from lake_engines.knn.state import IndexPool, SearchState

__all__ = ["DefaultEngine"]

_SNAPSHOTS = 4


class DefaultEngine:
    """Reads and writes rows with this package's own readers, writers and index; safe for several threads."""

    def __init__(self) -> None:
        self._files = ReaderPool()
        self._indexes: IndexPool | None = None
        self._lock = Lock()
        self._states: OrderedDict[str, SearchState] = OrderedDict()

    def write(self, store: Store, request: WriteRequest) -> Written:
        """Write rows into new files, with the columns that are computed; nothing becomes visible."""
        return write_fragments(store, replace(request, data=completed(request.data, request.schema)))

    def discard(self, store: Store, written: Written) -> None:
        """Remove files that will not be committed."""
        discard(store, written)

    def scan(self, snapshot: Snapshot, request: ScanRequest) -> pa.RecordBatchReader:
        """Live rows in fragment order, filtered exactly."""
        return scan_rows(snapshot, request, self._files)

    def scan_parts(self, snapshot: Snapshot, where: object | None) -> list[tuple[int, int]]:
        """The fragments that may hold matching rows: id and live rows of each, in scan order."""
        return scan_parts(snapshot, where)

    def count(self, snapshot: Snapshot, where: object | None) -> int:
        """The number of live rows that match."""
        return count_rows(snapshot, where, self._files)

    def take(self, snapshot: Snapshot, row_ids: U64, columns: tuple[str, ...]) -> pa.Table:
        """One row per row id, in the order asked for."""
        return take_rows(snapshot, row_ids, columns, self._files)

    def search(self, snapshot: Snapshot, request: SearchRequest) -> SearchAnswer:
        """The k nearest matching rows of each query."""
        from lake_engines.knn.search import search  # noqa: PLC0415 - loads faiss

        return search(self._state(snapshot), request, self._files)

    def build_index(self, snapshot: Snapshot, request: IndexRequest) -> IndexEntry:
        """Build and store an index; it is not part of the table until committed."""
        from lake_engines.knn.build import build_vector_index  # noqa: PLC0415 - loads faiss

        return build_vector_index(snapshot, request, self._files)

    def train_index(self, snapshot: Snapshot, request: IndexRequest) -> tuple[IndexEntry, IndexShard | None]:
        """An index over no row yet, and a shard of no row with its model: enough to optimize it over some rows."""
        from lake_engines.knn.build import train_vector_index  # noqa: PLC0415 - loads faiss

        return train_vector_index(snapshot, request, self._files)

    def optimize_index(self, snapshot: Snapshot, request: IndexUpkeepRequest) -> EncodedRows | None:
        """Encode what an index lacks and put its small shards together."""
        from lake_engines.knn.optimize import optimize_vector_index  # noqa: PLC0415 - loads faiss

        return optimize_vector_index(snapshot, request, self._files)

    def extend_index(self, snapshot: Snapshot, request: IndexUpkeepRequest) -> IndexShard | None:
        """A shard over all rows of a snapshot by an index's model."""
        from lake_engines.knn.optimize import extend_index  # noqa: PLC0415 - loads faiss

        return extend_index(snapshot, request, self._files)

    def stage(self, data: object, schema: pa.Schema, extra: str | None = None) -> Any:
        """Rows handed in, kept in memory if they are there, else in a temporary file."""
        from lake_engines.changes import StagedRows  # noqa: PLC0415

        return StagedRows(data, schema, extra)

    def plan_rows(self, snapshot: Snapshot, request: RowRequest) -> RowPlan:
        """Find the rows a change concerns and write its files."""
        from lake_engines.changes import plan_rows  # noqa: PLC0415

        return plan_rows(snapshot, request, self._files)

    def explain_rows(self, snapshot: Snapshot, request: RowRequest) -> RowsPlanned:
        """What a change of rows would do and cost."""
        from lake_engines.changes import explain_rows  # noqa: PLC0415

        return explain_rows(snapshot, request, self._files)

    def carry_rows(
        self,
        snapshot: Snapshot,
        carried: Sequence[CarriedRows],
        field_ids: frozenset[int],
        new_id: Callable[[], UUID],
    ) -> RowEdits:
        """Write new values again for where their rows are now."""
        from lake_engines.changes import carry_rows  # noqa: PLC0415

        return carry_rows(snapshot, carried, field_ids, new_id, self._files)

    def discard_files(self, store: Store, files: Sequence[ColumnGroup], others: Sequence[str] = ()) -> None:
        """Remove files and other objects that will not be committed."""
        discard_objects(store, [*(group.path for group in files), *others])

    def fill_column(self, snapshot: Snapshot, request: FillRequest) -> RowEdits:
        """Write a column's values as a new group of each fragment concerned."""
        return fill_column(snapshot, request, self._files)

    def complete_fragments(
        self,
        snapshot: Snapshot,
        fragments: Sequence[NewFragment],
        columns: Sequence[pa.Field],
        new_id: Callable[[], UUID],
    ) -> tuple[tuple[NewFragment, ...], frozenset[str]]:
        """Fragments that are no part of the snapshot, with files of its computed columns."""
        return complete_fragments(snapshot, fragments, columns, new_id, self._files)

    def fill_inputs(self, snapshot: Snapshot, request: FillRequest) -> frozenset[str]:
        """The columns that decide which values a fill writes."""
        return fill_inputs(snapshot, request)

    def gather_values(self, values: object) -> object:
        """Values for a fill as they can be read more than once."""
        return gathered(values)

    def constant(self, field: pa.Field, values: object) -> pa.Array | None:
        """Values that are one and the same for all rows, as an array of one; None for any other."""
        return constant(field, values)

    def declare_expression(self, schema: pa.Schema, field: pa.Field, text: str) -> StoredExpression:
        """SQL by which a column is to be computed, checked against the schema, as it is kept with the column."""
        return declare(schema, field, text)

    def check_expressions(self, schema: pa.Schema) -> None:
        """Make sure that every computed column of a schema can be computed."""
        check_expressions(schema)

    def infer_type(self, snapshot: Snapshot, name: str, values: object, on: str | None) -> pa.DataType:
        """The type of a new column given by its values alone."""
        return infer_type(snapshot.schema, name, values, on)

    def rewrite(self, snapshot: Snapshot, request: RewriteRequest) -> tuple[Rewritten, ...]:
        """Write the live rows of fragments anew."""
        from lake_engines.upkeep.rewriting import rewrite_fragments  # noqa: PLC0415

        return rewrite_fragments(snapshot, request, self._files)

    def check_fragment(self, snapshot: Snapshot, fragment: Fragment, checked: set[str]) -> Iterator[Problem]:
        """What is wrong with a fragment's files, read whole, or with its statistics."""
        from lake_engines.upkeep.verifying import check_fragment  # noqa: PLC0415

        return check_fragment(snapshot, fragment, checked)

    def measure_fragment(self, snapshot: Snapshot, fragment: Fragment) -> tuple[ColumnStatistics, ...]:
        """The statistics of a fragment's live rows, measured; CorruptionError where a file of it is damaged."""
        from lake_engines.upkeep.verifying import measure_fragment  # noqa: PLC0415

        return measure_fragment(snapshot, fragment)

    def check_shard(self, store: Store, shard: IndexShard) -> Iterator[Problem]:
        """What is wrong with an index file, read whole."""
        from lake_engines.upkeep.verifying import check_shard  # noqa: PLC0415

        return check_shard(store, shard)

    def check_keys(self, snapshot: Snapshot) -> Iterator[Problem]:
        """What is wrong with the keys of a table or with its key index."""
        from lake_engines.keys.checking import check_keys  # noqa: PLC0415

        return check_keys(snapshot)

    def build_key_index(
        self, snapshot: Snapshot, columns: Sequence[str], new_id: Callable[[], UUID]
    ) -> KeyIndex:
        """Make sure that columns identify rows, and index all of them."""
        from lake_engines.keys.merging import build_key_index  # noqa: PLC0415

        return build_key_index(snapshot, columns, self._files, new_id)

    def settle_key_index(self, snapshot: Snapshot, new_id: Callable[[], UUID]) -> KeyRunsMerged | None:
        """Merge the runs of the key index and cover every row; None where nothing is worth doing."""
        from lake_engines.keys.merging import settle_key_index  # noqa: PLC0415

        return settle_key_index(snapshot, self._files, new_id)

    def get_rows(self, snapshot: Snapshot, keys: pa.Table, columns: tuple[str, ...]) -> pa.Table:
        """The rows that have these keys, in the order of the keys."""
        from lake_engines.changes import get_rows  # noqa: PLC0415

        return get_rows(snapshot, keys, columns, self._files)

    def warm(self, snapshot: Snapshot) -> None:
        """Fetch manifests and index heads ahead of the first search."""
        state = self._state(snapshot)
        for entry in snapshot.version.indexes:
            for shard in entry.shards:
                state.index(shard)
        len(snapshot.fragments)

    def _state(self, snapshot: Snapshot) -> SearchState:
        from lake_engines.knn.state import IndexPool, SearchState  # noqa: PLC0415 - loads faiss

        key = f"{snapshot.version.table_id}:{snapshot.version.commit_id}"
        with self._lock:
            self._indexes = self._indexes or IndexPool()
            state = self._states.get(key)
            if state is None:
                state = self._states[key] = SearchState(snapshot, self._files, self._indexes)
                while len(self._states) > _SNAPSHOTS:
                    self._states.popitem(last=False)
            self._states.move_to_end(key)
            return state
