"""What DataFusion reads when a statement mentions a table: a dataset made for that one mention, at one version.

Two kinds: the table's rows in parts that DataFusion reads side by side, and rows in order of distance. A table that
is ordered by distance in the statement starts as the first and is made the second when the plan is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lake_connectors.adapter.following import Follower
from lake_connectors.adapter.nearest import Conditions, NearestQuery, nearest_rows
from lake_connectors.adapter.requests import NearestRequest, ReadRequest, mentions
from lake_connectors.adapter.types import fitted
from lake_connectors.datafusion.predicates import conjuncts
from lake_connectors.datafusion.types import TYPES
from lake_engines.predicate import bind
from lake_engines.predicate.tree import And, Column, Expression, walk
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.queries import check_k, check_queries, check_recall, vector_column
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD
from lake_format.table import METRICS

__all__ = ["LakeDataset", "NearestDataset", "TableDataset", "TableFollower", "show"]

TableFollower: TypeAlias = Follower[pa.Schema]
_BATCH_ROWS = 16_384


class _Reading:
    """What DataFusion needs of a scanner: a schema, and batches made as they are pulled."""

    def __init__(self, schema: pa.Schema, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self.projected_schema = schema
        self.to_batches = batches


@dataclass(frozen=True, slots=True)
class _Part:
    """One partition of a scan, as DataFusion knows fragments of a dataset."""

    scan: Callable[[Sequence[str] | None, pc.Expression | None], _Reading]

    def scanner(
        self,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002 - pyarrow's name
        **_: object,
    ) -> _Reading:
        """The rows of the part."""
        return self.scan(columns, filter)


class LakeDataset(ds.Dataset):  # type: ignore[misc]
    """A table mentioned once in one statement.

    Attributes
    ----------
    follower, snapshot
        The table, and the version the statement reads.
    was_read
        Whether DataFusion has read it.
    """

    def __init__(self, follower: TableFollower) -> None:
        self.follower = follower
        self.snapshot = follower.bind()
        self.was_read = False
        self._shown = follower.shown

    @property
    def schema(self) -> pa.Schema:
        """The columns DataFusion is shown."""
        return self._shown

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        **_: object,
    ) -> _Reading:
        """Asked for its schema only, while a plan is made."""
        return _Reading(self._projected(columns), lambda: iter(()))

    def get_fragments(self, filter: pc.Expression | None = None) -> list[_Part]:  # noqa: A002
        """The partitions to read."""
        raise NotImplementedError

    def _get_fragments(self, *_: object) -> NoReturn:
        raise UnsupportedError("this dataset serves DataFusion scans only")

    def _projected(self, columns: Sequence[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])

    def _tell(
        self, columns: Sequence[str], terms: tuple[Expression, ...], nearest: NearestRequest | None = None
    ) -> None:
        request = ReadRequest(columns=tuple(columns), predicates=terms, rules="duckdb")
        self.follower.tell(self.snapshot, request, nearest)


class NearestDataset(LakeDataset):
    """Rows in order of distance, the filter that DataFusion hands over applied before the search.

    Attributes
    ----------
    candidates
        How many rows to hand out: k, or more where DataFusion drops some of them by filters of its own.
    """

    def __init__(self, follower: TableFollower, request: NearestRequest) -> None:
        super().__init__(follower)
        self._nearest = request
        self._query = checked_query(self, request)
        self._found: tuple[Any, pa.Table, bool] | None = None
        self._asked_for = 1
        self.candidates = self.snapshot.version.row_count if request.k is None else request.k

    @property
    def schema(self) -> pa.Schema:
        """The table's columns, row id and distance."""
        return pa.schema([*self._shown, _ROW_ID, _DISTANCE])

    @property
    def exhausted(self) -> bool:
        """Whether the last search found all rows there are."""
        return self._found is not None and self._found[2]

    def get_fragments(self, filter: pc.Expression | None = None) -> list[_Part]:  # noqa: A002
        """One partition, so that the order holds."""
        return [_Part(self._reading)]

    def _reading(self, columns: Sequence[str] | None, filter_: pc.Expression | None) -> _Reading:
        schema = self._projected(columns)
        terms = conjuncts(filter_)

        def batches() -> Iterator[pa.RecordBatch]:
            self.was_read = True
            found = self._rows(tuple(schema.names), terms)
            yield from _as_batches(found.slice(0, self.candidates), schema)

        return _Reading(schema, batches)

    def _rows(self, columns: tuple[str, ...], terms: tuple[Expression, ...]) -> pa.Table:
        """The nearest rows, as many as there are candidates; kept, since a plan may be run again for fewer."""
        key = (columns, tuple(map(str, terms)))
        if self._found is not None and self._found[0] == key:
            _, known, whole = self._found
            if whole or known.num_rows >= self.candidates:
                return known
        own = tuple(term for term in terms if not mentions(term, DISTANCE))
        rest = tuple(term for term in terms if mentions(term, DISTANCE))
        self._tell([name for name in columns if name not in (ROW_ID, DISTANCE)], terms, self._nearest)
        found, whole = self._search(columns, own, rest)
        self._found = (key, found, whole)
        return found

    def _search(
        self, columns: tuple[str, ...], own: tuple[Expression, ...], rest: tuple[Expression, ...]
    ) -> tuple[pa.Table, bool]:
        read = {node.path[0] for term in rest for node in walk(term) if isinstance(node, Column)}
        needed = tuple(name for name in self._shown.names if name in columns or name in read)
        # An index answers a search for fewer rows with other rows, not with the first of those it found for more:
        # other columns of the same rows come only from a search as large as that whose rows were counted.
        self._asked_for = max(self._asked_for, self.candidates)
        query = NearestQuery(**{**_fields(self._query), "first": self._asked_for})
        conditions = Conditions(own, "duckdb")
        tables: list[pa.Table] = []
        rows = 0
        for table in nearest_rows(
            self.follower.engine, self.snapshot, query, needed, conditions, lambda: self.candidates
        ):
            tables.append(
                pa.Table.from_arrays(table.columns, table.column_names)
            )  # alike in what may be NULL
            rows += table.num_rows
            if rows >= self.candidates:
                break
        found = pa.concat_tables(tables)
        return self._passing(found, rest), rows < self.candidates

    def _passing(self, found: pa.Table, rest: tuple[Expression, ...]) -> pa.Table:
        """The rows that pass filters on the distance."""
        if not rest:
            return found
        predicate = bind(And(rest), found.schema, rules="duckdb")
        return pa.Table.from_batches(
            [batch.filter(pa.array(predicate.mask(batch))) for batch in found.to_batches()], found.schema
        )


class TableDataset(LakeDataset):
    """The table under its own name: all rows, until a plan shows that only the nearest are needed."""

    def __init__(self, follower: TableFollower, partitions: int) -> None:
        super().__init__(follower)
        self._partitions = partitions
        self.nearest: NearestDataset | None = None

    def order_by(self, request: NearestRequest) -> NearestDataset:
        """Hand out only the nearest rows from now on."""
        ordered = _OrderedRows(self.follower, request)
        ordered.snapshot = self.snapshot
        self.nearest = ordered
        return ordered

    def get_fragments(self, filter: pc.Expression | None = None) -> list[_Part]:  # noqa: A002
        """As many partitions of about as many rows as DataFusion reads side by side."""
        if self.nearest is not None:
            return self.nearest.get_fragments(filter)
        where = Conditions(conjuncts(filter), "duckdb").bound(self.snapshot.schema)
        groups: list[tuple[int, list[int]]] = [(0, []) for _ in range(self._partitions)]
        for fragment_id, rows in self.follower.engine.scan_parts(self.snapshot, where):
            at = min(range(len(groups)), key=lambda index: groups[index][0])
            groups[at] = (groups[at][0] + rows, [*groups[at][1], fragment_id])
        return [_Part(self._part(frozenset(ids))) for _, ids in groups if ids] or [
            _Part(self._part(frozenset()))
        ]

    def _part(
        self, fragments: frozenset[int]
    ) -> Callable[[Sequence[str] | None, pc.Expression | None], _Reading]:
        def reading(columns: Sequence[str] | None, filter_: pc.Expression | None) -> _Reading:
            schema, terms = self._projected(columns), conjuncts(filter_)

            def batches() -> Iterator[pa.RecordBatch]:
                self.was_read = True
                self._tell(schema.names, terms)
                scan = ScanRequest(
                    columns=tuple(schema.names) or (self._narrowest(),),
                    where=Conditions(terms, "duckdb").bound(self.snapshot.schema),
                    batch_rows=_BATCH_ROWS,
                    fragments=fragments,
                )
                for batch in self.follower.engine.scan(self.snapshot, scan):
                    yield from _as_batches(pa.table(batch), schema)

            return _Reading(schema, batches)

        return reading

    def _narrowest(self) -> str:
        """A column that costs little to read, where only the number of rows counts."""
        fixed = [field for field in self.snapshot.schema if pa.types.is_primitive(field.type)]
        return min(fixed, key=lambda field: field.type.bit_width).name if fixed else ROW_ID


class _OrderedRows(NearestDataset):
    """A table's nearest rows with the table's own columns only."""

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._shown


_ROW_ID = pa.field(ROW_ID, ROW_ID_FIELD.type)
_DISTANCE = pa.field(DISTANCE, DISTANCE_FIELD.type)


def checked_query(dataset: LakeDataset, request: NearestRequest) -> NearestQuery:
    """The query of a request, checked against the table."""
    version = dataset.snapshot.version
    field = vector_column(version.schema, request.column, [entry.field_id for entry in version.indexes])
    if request.metric is not None and request.metric not in METRICS:
        raise InvalidInputError(f"unknown metric {request.metric!r}", fix=f"metrics are {', '.join(METRICS)}")
    if not request.ordered and request.k is not None:
        check_k(request.k)
    return NearestQuery(
        vector=check_queries(request.vector, field)[0],
        column=field.name,
        metric=request.metric,
        first=1,
        recall=check_recall(request.recall),
        exact=request.exact,
        without_vector=request.ordered,
    )


def _fields(query: NearestQuery) -> dict[str, Any]:
    return {name: getattr(query, name) for name in query.__dataclass_fields__}


def _as_batches(table: pa.Table, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The columns of a schema, in its types; rows without columns are rows still."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        if not len(schema):
            nothing = pa.Array.from_buffers(pa.struct([]), batch.num_rows, [None])
            yield pa.RecordBatch.from_struct_array(nothing)
        else:
            arrays = [fitted(batch.column(field.name), field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def show(schema: pa.Schema) -> pa.Schema:
    """A table's schema as DataFusion is shown it."""
    return TYPES.schema(schema)
