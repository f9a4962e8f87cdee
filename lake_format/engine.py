"""What a table asks of an engine, and how the engine is found.

The format knows how tables are described and committed; an engine reads and writes rows. The default engine is
imported by name when first needed, so that describing or listing a table loads no engine at all.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.clustering import Clustering
from lake_format.compaction import RewriteRequest, Rewritten
from lake_format.errors import InvalidInputError
from lake_format.key_index import KeyIndex, KeyRunsMerged
from lake_format.model import Fragment, IndexEntry, IndexShard, NewFragment
from lake_format.partitioning import PartitionSpec
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics
from lake_format.store.base import Store
from lake_format.verification import Problem

if TYPE_CHECKING:
    from lake_format.computed_columns import StoredExpression
    from lake_format.filling import FillRequest
    from lake_format.index_upkeep import EncodedRows, IndexUpkeepRequest
    from lake_format.model import ColumnGroup
    from lake_format.row_edits import CarriedRows, RowEdits, RowPlan, RowRequest, RowsPlanned

__all__ = [
    "Engine",
    "IndexRequest",
    "Progress",
    "ScanRequest",
    "SearchAnswer",
    "SearchRequest",
    "WriteRequest",
    "Written",
    "load_engine",
]

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``; called from the thread that does the work. ``total`` 0 means unknown."""

_DEFAULT = "lake_engines:DefaultEngine"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanRequest:
    """Rows wanted: columns by name in order, a filter, and at most how many.

    ``where`` is SQL text, a ``pyarrow.compute.Expression``, or None. ``columns`` may name ``_row_id``. ``fragments``
    are the ids of those to read, None is all: so that several readers share a scan. With ``dictionaries`` every
    column of text comes as a dictionary with int32 codes, which repeats no value where the file repeats none.
    """

    columns: tuple[str, ...]
    where: object | None = None
    limit: int | None = None
    batch_rows: int | None = None
    fragments: frozenset[int] | None = None
    dictionaries: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """Nearest neighbours wanted.

    Attributes
    ----------
    queries
        float32, shape ``(queries, dimension)``, finite.
    column, metric
        The vector column; the metric or None for the index's own (l2 without an index).
    """

    queries: npt.NDArray[np.float32]
    k: int
    column: str
    where: object | None
    select: tuple[str, ...]
    recall: float
    exact: bool
    metric: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAnswer:
    """What a search found: one row a neighbour, nearest first, query after query.

    ``table`` has the columns asked for; ``query`` tells for each row which query it answers, shape ``(rows,)``;
    ``plan`` tells what was done and what it cost.
    """

    table: pa.Table
    query: npt.NDArray[np.int64]
    plan: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """Rows to write as new fragments of a table with this schema (field ids in its metadata).

    Attributes
    ----------
    partitioning
        How rows are parted into fragments; None leaves them together.
    clustering
        The order to bring rows into within a partition; None leaves them in theirs.
    """

    data: object
    schema: pa.Schema
    schema_id: int
    properties: Mapping[str, str]
    partitioning: PartitionSpec | None = None
    clustering: Clustering | None = None
    progress: Progress | None = None
    new_id: Callable[[], UUID] = uuid4
    """Gives the unique part of new files' names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Files written and not committed: their fragments, the features they need, and figures.

    ``order`` tells for every row written which of the rows handed in it is, where they were brought into another
    order; shape ``(rows,)``. It ascends within a fragment unless its rows were clustered.
    """

    fragments: tuple[NewFragment, ...]
    features: frozenset[str]
    rows: int
    bytes: int
    order: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRequest:
    """A vector index to build over all live rows of a snapshot."""

    column: str
    metric: str
    name: str
    options: Mapping[str, object] = field(default_factory=dict)
    progress: Progress | None = None
    new_id: Callable[[], UUID] = uuid4
    """Gives the index's id and the unique part of new files' names."""


class Engine(Protocol):
    """Reads and writes the rows of one table. Safe to use from several threads."""

    def write(self, store: Store, request: WriteRequest) -> Written:
        """Write rows handed in, and the columns computed from them, into new files; nothing becomes visible.

        Bounded memory for unbounded readers.
        """
        ...

    def discard(self, store: Store, written: Written) -> None:
        """Remove files that will not be committed."""
        ...

    def scan(self, snapshot: Snapshot, request: ScanRequest) -> pa.RecordBatchReader:
        """Live rows in fragment order, filtered exactly."""
        ...

    def scan_parts(self, snapshot: Snapshot, where: object | None) -> list[tuple[int, int]]:
        """The fragments that may hold matching rows: id and live rows of each, in scan order."""
        ...

    def count(self, snapshot: Snapshot, where: object | None) -> int:
        """The number of live rows that match."""
        ...

    def take(self, snapshot: Snapshot, row_ids: U64, columns: tuple[str, ...]) -> pa.Table:
        """One row per row id, in the order asked for; NotFoundError for a row id that is not live."""
        ...

    def search(self, snapshot: Snapshot, request: SearchRequest) -> SearchAnswer:
        """The k nearest matching rows of each query."""
        ...

    def build_index(self, snapshot: Snapshot, request: IndexRequest) -> IndexEntry:
        """Build and store an index; it is not part of the table until committed."""
        ...

    def train_index(self, snapshot: Snapshot, request: IndexRequest) -> tuple[IndexEntry, IndexShard | None]:
        """Learn from a sample: an index without shards, to be optimized over parts of the rows, and its model."""
        ...

    def optimize_index(self, snapshot: Snapshot, request: IndexUpkeepRequest) -> EncodedRows | None:
        """Encode what an index lacks and put its small shards together; None where there is nothing to do."""
        ...

    def extend_index(self, snapshot: Snapshot, request: IndexUpkeepRequest) -> IndexShard | None:
        """A shard over all rows of a snapshot by an index's model; None where it has none, or no row a vector."""
        ...

    def stage(self, data: object, schema: pa.Schema, extra: str | None = None) -> Any:
        """Keep rows handed in so that they can be read more than once; has ``close()``. For ``RowRequest.source``.

        ``extra`` is a column that the schema need not have.
        """
        ...

    def plan_rows(self, snapshot: Snapshot, request: RowRequest) -> RowPlan:
        """Find the rows a change concerns and write its files; nothing becomes visible."""
        ...

    def explain_rows(self, snapshot: Snapshot, request: RowRequest) -> RowsPlanned:
        """What a change of rows would do and cost; nothing is written."""
        ...

    def carry_rows(
        self,
        snapshot: Snapshot,
        carried: Sequence[CarriedRows],
        field_ids: frozenset[int],
        new_id: Callable[[], UUID],
    ) -> RowEdits:
        """Write new values again for where their rows are in ``snapshot``; no expression is evaluated."""
        ...

    def discard_files(self, store: Store, files: Sequence[ColumnGroup], others: Sequence[str] = ()) -> None:
        """Remove files, and other objects by path, that will not be committed."""
        ...

    def fill_column(self, snapshot: Snapshot, request: FillRequest) -> RowEdits:
        """Write a column's values as a new group of each fragment concerned; nothing becomes visible."""
        ...

    def complete_fragments(
        self,
        snapshot: Snapshot,
        fragments: Sequence[NewFragment],
        columns: Sequence[pa.Field],
        new_id: Callable[[], UUID],
    ) -> tuple[tuple[NewFragment, ...], frozenset[str]]:
        """Fragments that are no part of the snapshot, with files of its computed columns; the features of these."""
        ...

    def fill_inputs(self, snapshot: Snapshot, request: FillRequest) -> frozenset[str]:
        """The columns that decide which values a fill writes."""
        ...

    def gather_values(self, values: object) -> object:
        """Values for a fill as they can be read more than once: streams of Arrow data as a table in memory."""
        ...

    def constant(self, field: pa.Field, values: object) -> pa.Array | None:
        """Values that are one and the same for all rows, as an array of one; None for any other.

        Raises
        ------
        InvalidInputError
            The constant does not fit the field.
        """
        ...

    def declare_expression(self, schema: pa.Schema, field: pa.Field, text: str) -> StoredExpression:
        """SQL by which a column is to be computed, checked against the schema, as it is kept with the column.

        Raises
        ------
        InvalidInputError
            The text is no expression over the other columns, or gives no value of the column's type.
        UnsupportedError
            It contains what expressions do not support.
        """
        ...

    def check_expressions(self, schema: pa.Schema) -> None:
        """Raise UnsupportedError or CorruptionError where a computed column of a schema cannot be computed."""
        ...

    def infer_type(self, snapshot: Snapshot, name: str, values: object, on: str | None) -> pa.DataType:
        """The type of a new column given by its values alone; InvalidInputError where they do not tell."""
        ...

    def rewrite(self, snapshot: Snapshot, request: RewriteRequest) -> tuple[Rewritten, ...]:
        """Write the live rows of fragments as new ones, in bounded memory; nothing where there are none."""
        ...

    def check_fragment(self, snapshot: Snapshot, fragment: Fragment, checked: set[str]) -> Iterator[Problem]:
        """What is wrong with a fragment's files, read whole, or with its statistics.

        ``checked`` holds paths of files that need no second look; those looked at are added.
        """
        ...

    def measure_fragment(self, snapshot: Snapshot, fragment: Fragment) -> tuple[ColumnStatistics, ...]:
        """The statistics of a fragment's live rows, measured; CorruptionError where a file of it is damaged."""
        ...

    def check_shard(self, store: Store, shard: IndexShard) -> Iterator[Problem]:
        """What is wrong with an index file, read whole."""
        ...

    def check_keys(self, snapshot: Snapshot) -> Iterator[Problem]:
        """What is wrong with the keys of a table or with its key index; data is read whole."""
        ...

    def build_key_index(
        self, snapshot: Snapshot, columns: Sequence[str], new_id: Callable[[], UUID]
    ) -> KeyIndex:
        """Make sure that columns identify rows, and index all live ones; InvalidInputError where they do not."""
        ...

    def settle_key_index(self, snapshot: Snapshot, new_id: Callable[[], UUID]) -> KeyRunsMerged | None:
        """Write the runs of the key index as one that knows every row; None where that is not worth it."""
        ...

    def get_rows(self, snapshot: Snapshot, keys: pa.Table, columns: tuple[str, ...]) -> pa.Table:
        """The rows that have these keys, in the order of the keys; keys that no row has are passed over."""
        ...

    def warm(self, snapshot: Snapshot) -> None:
        """Fetch what a first search will need (manifests, index heads), all in one round."""
        ...


def load_engine(name: str | None = None) -> Engine:
    """A new engine: the one named, the one installed under that entry point, or the default.

    Parameters
    ----------
    name
        An entry point of group ``lake_format.engines``, or ``module:Class``. None is the default engine, found
        by its module name so that it works where no package metadata is installed.
    """
    target = _DEFAULT if name is None else name
    if ":" not in target:
        known = {point.name: point.value for point in entry_points(group="lake_format.engines")}
        if target not in known:
            raise InvalidInputError(f"no engine {target!r}", fix=f"engines are {', '.join(sorted(known))}")
        target = known[target]
    module, _, attribute = target.partition(":")
    engine: Engine = getattr(importlib.import_module(module), attribute)()
    return engine
