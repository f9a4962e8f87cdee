"""What DataFusion reads when a statement mentions a table: a dataset made for that one mention, at one version.

Two kinds: the table's rows in parts that DataFusion reads side by side, and rows in order of distance. A table that
is ordered by distance in the statement starts as the first and is made the second when the plan is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lake_connectors.adapter.following import Follower
from lake_connectors.adapter.nearest import (
    Conditions,
    NearestQuery,
    OnDistance,
    nearest_rows,
    with_columns,
)
from lake_connectors.adapter.requests import NearestRequest, ReadRequest, mentions
from lake_connectors.adapter.types import fitted
from lake_connectors.datafusion.predicates import conjuncts
from lake_connectors.datafusion.types import TYPES
from lake_engines.predicate.bound import BoundPredicate
from lake_engines.predicate.tree import Column, Expression, walk
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.queries import check_k, check_queries, check_recall, vector_column
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, ROW_ID_FIELD
from lake_format.table import METRICS

__all__ = ["LakeDataset", "NearestDataset", "TableDataset", "TableFollower", "show"]

TableFollower: TypeAlias = Follower[pa.Schema]
Terms: TypeAlias = tuple[Expression, ...]
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
    was_planned
        Whether DataFusion has asked for its parts.
    """

    def __init__(self, follower: TableFollower) -> None:
        self.follower = follower
        self.snapshot = follower.bind()
        self.was_planned = False
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
        schema = self.schema
        return schema if columns is None else pa.schema([schema.field(name) for name in columns])

    def _tell(
        self, columns: Sequence[str], terms: tuple[Expression, ...], nearest: NearestRequest | None = None
    ) -> None:
        request = ReadRequest(columns=tuple(columns), predicates=terms, rules="duckdb")
        self.follower.tell(self.snapshot, request, nearest)


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows that a search found, under which conditions, and whether there are no more."""

    conditions: tuple[str, ...]
    rows: pa.Table
    whole: bool


class NearestDataset(LakeDataset):
    """Rows in order of distance, the filter that DataFusion hands over applied before the search.

    Attributes
    ----------
    candidates
        How many rows to hand out: k, or more where DataFusion drops some of them by filters of its own.
    carried
        What those filters say that the table understands, applied before the search too.
    at_once
        Whether to hand the rows out as one batch, in which DataFusion keeps their order.
    """

    def __init__(self, follower: TableFollower, request: NearestRequest) -> None:
        super().__init__(follower)
        self._nearest = request
        self._query = checked_query(self, request)
        self._found: _Found | None = None
        self._asked_for = 1
        self.candidates = self.snapshot.version.row_count if request.k is None else request.k
        self.carried: tuple[Expression, ...] = ()
        self.at_once = False

    @cached_property
    def schema(self) -> pa.Schema:
        """The table's columns, row id and distance."""
        return pa.schema([*self._shown, _ROW_ID, _DISTANCE])

    @cached_property
    def searched(self) -> pa.Schema:
        """The columns that conditions may read, in the table's types."""
        return pa.schema([*self.snapshot.schema, ROW_ID_FIELD, DISTANCE_FIELD])

    @property
    def exhausted(self) -> bool:
        """Whether the last search found all rows there are."""
        return self._found is not None and self._found.whole

    def get_fragments(self, filter: pc.Expression | None = None) -> list[_Part]:  # noqa: A002
        """One partition, so that the order holds."""
        self.was_planned = True
        return [_Part(self._reading)]

    def _reading(self, columns: Sequence[str] | None, filter_: pc.Expression | None) -> _Reading:
        schema = self._projected(columns)
        terms = (*conjuncts(filter_), *self.carried)

        def batches() -> Iterator[pa.RecordBatch]:
            rows = self._rows(tuple(schema.names), terms)
            most = rows.num_rows if self.at_once else _BATCH_ROWS
            if rows.num_rows <= most:  # DataFusion keeps the order within a batch only
                rows = rows.combine_chunks()
            for batch in _as_batches(rows, schema, most):
                yield _with_one_nan(batch)

        return _Reading(schema, batches)

    def _rows(self, columns: tuple[str, ...], terms: tuple[Expression, ...]) -> pa.Table:
        """The nearest rows, as many as there are candidates.

        What was found is kept, since a plan may be run again: an index answers a search for fewer rows with other
        rows, and not with the first of those it found for more.
        """
        conditions = tuple(map(str, terms))
        known = self._found
        enough = known is not None and (known.whole or known.rows.num_rows >= self.candidates)
        if known is None or known.conditions != conditions or not enough:
            self._tell([name for name in columns if name not in (ROW_ID, DISTANCE)], terms, self._nearest)
            known = self._found = _Found(conditions, *self._search(columns, terms))
        rows = known.rows.slice(0, self.candidates)
        missing = tuple(name for name in columns if name not in rows.column_names)
        return self._completed(rows, missing, terms) if missing else rows

    def _completed(self, rows: pa.Table, missing: tuple[str, ...], terms: tuple[Expression, ...]) -> pa.Table:
        """Rows that were found, with columns that the search did not read."""
        self._tell(missing, terms, self._nearest)
        parts = with_columns(self.follower.engine, self.snapshot, rows.select([ROW_ID, DISTANCE]), missing)
        empty = _like_declared(self.snapshot.schema.empty_table().select(missing))
        taken = pa.concat_tables([empty, *(_like_declared(part.select(missing)) for part in parts)])
        for name in missing:
            rows = rows.append_column(name, taken.column(name))
        return rows

    def _search(self, columns: tuple[str, ...], terms: tuple[Expression, ...]) -> tuple[pa.Table, bool]:
        """The nearest rows that pass, and whether there are no more."""
        at_distance = tuple(term for term in terms if mentions(term, DISTANCE))
        own = tuple(term for term in terms if not mentions(term, DISTANCE))
        read = {node.path[0] for term in at_distance for node in walk(term) if isinstance(node, Column)}
        needed = tuple(name for name in self._shown.names if name in columns or name in read)
        on_distance = OnDistance(at_distance, self.searched, "duckdb")
        self._asked_for = max(self._asked_for, self.candidates)
        query = replace(self._query, first=self._asked_for)
        tables: list[pa.Table] = []

        def useful() -> int:
            return sum(table.num_rows for table in tables)

        for table in nearest_rows(
            self.follower.engine, self.snapshot, query, needed, Conditions(own, "duckdb"), useful
        ):
            tables.append(_like_declared(on_distance.passing(table)))
            if useful() >= self.candidates or on_distance.is_beyond(table):
                break
        return pa.concat_tables(tables), useful() < self.candidates


class TableDataset(LakeDataset):
    """The table under its own name: all rows, until a plan shows that only the nearest are needed."""

    def __init__(self, follower: TableFollower, partitions: int) -> None:
        super().__init__(follower)
        self._partitions = partitions
        self._understood: tuple[object, Terms, BoundPredicate | None] | None = None
        self.nearest: NearestDataset | None = None

    def order_by(self, request: NearestRequest) -> NearestDataset:
        """Hand out only the nearest rows from now on."""
        ordered = _OrderedRows(self.follower, request)
        ordered.snapshot = self.snapshot
        self.nearest = ordered
        return ordered

    def get_fragments(self, filter: pc.Expression | None = None) -> list[_Part]:  # noqa: A002
        """As many partitions of about as many rows as DataFusion reads side by side."""
        self.was_planned = True
        if self.nearest is not None:
            return self.nearest.get_fragments(filter)
        _, where = self._where(filter)
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
            schema = self._projected(columns)
            terms, where = self._where(filter_)

            def batches() -> Iterator[pa.RecordBatch]:
                self._tell(schema.names, terms)
                scan = ScanRequest(
                    columns=tuple(schema.names) or (self._narrowest(),),
                    where=where,
                    batch_rows=_BATCH_ROWS,
                    fragments=fragments,
                )
                for batch in self.follower.engine.scan(self.snapshot, scan):
                    yield from _as_batches(pa.table(batch), schema)

            return _Reading(schema, batches)

        return reading

    def _where(self, filter_: pc.Expression | None) -> tuple[Terms, BoundPredicate | None]:
        """What a filter says; read once for a plan, which gives each part the same one."""
        known = self._understood
        if known is None or known[0] is not filter_:
            terms = conjuncts(filter_)
            known = (filter_, terms, Conditions(terms, "duckdb").bound(self.snapshot.schema))
            self._understood = known
        return known[1], known[2]

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


def _like_declared(table: pa.Table) -> pa.Table:
    """The table without what its schema says of NULLs, in which tables of several searches differ."""
    return pa.Table.from_arrays(table.columns, table.column_names)


def _as_batches(table: pa.Table, schema: pa.Schema, most: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The columns of a schema, in its types; rows without columns are rows still."""
    for batch in table.to_batches(max_chunksize=max(most, 1)):
        if not len(schema):
            nothing = pa.Array.from_buffers(pa.struct([]), batch.num_rows, [None])
            yield pa.RecordBatch.from_struct_array(nothing)
        else:
            arrays = [fitted(_with_nulls(batch.column(field.name)), field.type) for field in schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _with_nulls(array: pa.Array) -> pa.Array:
    """The array; members of a struct are NULL where it is, for DataFusion takes them for what they are."""
    if not pa.types.is_struct(array.type) or len(array.type) == 0:
        return array
    members = [_with_nulls(member) for member in array.flatten()]
    fields = [field.with_type(member.type) for field, member in zip(array.type, members, strict=True)]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(members, fields=fields, mask=mask)


def _with_one_nan(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with every NaN the same: DataFusion takes one with a sign for less than any number."""
    arrays = [_one_nan(array) for array in batch.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema) if arrays else batch


def _one_nan(array: pa.Array) -> pa.Array:
    if not pa.types.is_floating(array.type) or not np.isnan(array.to_numpy(zero_copy_only=False)).any():
        return array
    return pc.if_else(pc.is_nan(array), pa.scalar(float("nan"), array.type), array)


def show(schema: pa.Schema) -> pa.Schema:
    """A table's schema as DataFusion is shown it."""
    return TYPES.schema(schema)
