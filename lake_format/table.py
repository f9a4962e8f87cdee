"""The table a user holds: reads go to the engine, writes become commits.

A table is also a ``pyarrow.dataset.Dataset``, so that DuckDB, Polars and everything that takes a dataset takes it,
with projection and filters pushed down; :mod:`lake_format.dataset` holds that side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy.typing as npt
import pyarrow as pa

from lake_format.changes import AddFragments
from lake_format.engine import (
    Progress,
    ScanRequest,
    SearchRequest,
)
from lake_format.errors import InvalidInputError
from lake_format.keys import key_columns
from lake_format.operation_record import OperationRecord
from lake_format.queries import (
    METRICS,
    check_k,
    check_metric,
    check_queries,
    check_recall,
    check_row_ids,
    vector_column,
)
from lake_format.result import SearchResult
from lake_format.schema import DISTANCE, ROW_ID, select_columns
from lake_format.table_backfill import TableBackfill
from lake_format.table_branches import TableBranches
from lake_format.table_copies import TableCopies
from lake_format.table_core import checked_idempotency
from lake_format.table_parts import TableParts
from lake_format.table_properties import TableProperties
from lake_format.table_repair import TableRepair
from lake_format.table_rows import TableRows
from lake_format.table_transaction import TableTransaction
from lake_format.transaction import REFUSALS

__all__ = ["METRICS", "Table"]


class Table(
    TableRows,
    TableBackfill,
    TableParts,
    TableBranches,
    TableCopies,
    TableProperties,
    TableTransaction,
    TableRepair,
):
    """One table at one version; :meth:`refresh` and every write of its own move it to the newest.

    Made by :func:`lake_format.create` and :func:`lake_format.open`. Safe to use from several threads.
    """

    # --- reading ------------------------------------------------------------------------------------------

    def count(self, where: object | None = None) -> int:
        """The number of rows, or of those that match a filter.

        Parameters
        ----------
        where
            SQL text such as ``"price < 10 AND category IN ('a', 'b')"``, or a ``pyarrow.compute.Expression``.
        """
        if where is None:
            return self._snapshot.version.row_count
        return self._engine.count(self._snapshot, where)

    def scan(
        self, columns: Iterable[str] | None = None, where: object | None = None, limit: int | None = None
    ) -> pa.RecordBatchReader:
        """Read rows as a stream of record batches; memory stays bounded.

        Parameters
        ----------
        columns
            Names in the order wanted; None is every column. ``_row_id`` may be among them.
        where
            A filter, see :meth:`count`.
        limit
            At most so many rows.

        Raises
        ------
        InvalidInputError
            An unknown column (near matches are named), a filter that does not fit the schema, a bad limit.
        """
        return self._scan(columns, where, limit)

    def to_arrow(self) -> pa.Table:
        """The whole table in memory."""
        return self._scan(None, None, None).read_all()

    def take(
        self, row_ids: Sequence[int] | npt.NDArray[Any] | pa.Array, columns: Iterable[str] | None = None
    ) -> pa.Table:
        """Fetch rows by row id.

        Parameters
        ----------
        row_ids
            Any order, repeats allowed.
        columns
            Names; None is every column.

        Returns
        -------
        pyarrow.Table
            One row per row id, in the order asked for.

        Raises
        ------
        NotFoundError
            A row id that no live row has.
        """
        names = select_columns(self._snapshot.schema, columns, extra=(ROW_ID,))
        return self._engine.take(self._snapshot, check_row_ids(row_ids), tuple(names))

    def search(
        self,
        vector: object,
        k: int = 10,
        column: str | None = None,
        where: object | None = None,
        select: Iterable[str] | None = None,
        recall: float = 0.95,
        exact: bool = False,
        metric: str | None = None,
    ) -> SearchResult:
        """Find the rows whose vectors are nearest to one query or to each of a batch.

        Parameters
        ----------
        vector
            One vector, shape ``(dimension,)``, or a batch, shape ``(queries, dimension)``; finite numbers.
        k
            Neighbours wanted per query; where fewer rows match, all of them come back.
        column
            The vector column; may be left out where there is only one (or only one with an index).
        where
            Only rows that match this filter count, see :meth:`count`; applied before the search.
        select
            Columns wanted, ``_row_id`` and ``_distance`` among them; None is every column and those two.
        recall
            The share of true neighbours wanted, in (0, 1]; met by what was measured when the index was built.
        exact
            Compare with every matching row instead of using the index.
        metric
            ``l2`` (Euclidean distance), ``cosine`` (1 − cosine) or ``ip`` (negated inner product). None is the
            metric of the column's index, l2 without one; another than the index's is answered exactly.

        Returns
        -------
        SearchResult
            ``min(k, matching rows)`` rows per query, nearest first, with true distances.

        Raises
        ------
        InvalidInputError
            Wrong dimension, NaN or infinite values, k < 1, an unknown column or metric.
        """
        schema = self._snapshot.schema
        indexed = [index.field_id for index in self._snapshot.version.indexes]
        field = vector_column(schema, column, indexed)
        queries, batch = check_queries(vector, field)
        extra = (ROW_ID, DISTANCE)
        names = [*schema.names, *extra] if select is None else select_columns(schema, select, extra=extra)
        request = SearchRequest(
            queries=queries,
            k=check_k(k),
            column=field.name,
            where=where,
            select=tuple(names),
            recall=check_recall(recall),
            exact=bool(exact),
            metric=None if metric is None else check_metric(metric),
        )
        return SearchResult(self._engine.search(self._snapshot, request), batch=batch)

    # --- writing ------------------------------------------------------------------------------------------

    def append(
        self,
        data: object,
        *,
        idempotency: tuple[str, int] | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Add rows; when this returns they are durable and visible to every reader.

        Parameters
        ----------
        data
            An Arrow table, batch, batches, reader, or anything with ``__arrow_c_stream__``; a pandas or Polars
            frame; a list of dictionaries. Unbounded readers are written in bounded memory. Columns are matched by
            name; a nullable column that is missing becomes NULL.
        idempotency
            ``(writer, number)``: commit nothing if this writer has committed this number, or a later one,
            before. A job that is retried with the same number appends once.
        progress
            Called with ``(stage, rows done, rows in all or 0)``.

        Raises
        ------
        InvalidInputError
            A column that the table does not have, a type that cannot be converted exactly, NULL in a column that
            forbids it. Nothing was written.
        """
        self._require_writable()
        mark = checked_idempotency(idempotency)
        if mark and self.refresh()._is_done(mark):
            return self
        version = self._snapshot.version
        if key_columns(version):
            return self._append_keyed(data, idempotency, progress)
        written = self._engine.write(self._store, self._write_request(data, version, progress))
        if written.rows == 0:
            return self
        try:
            shards = self._shards_over(written, version)
        except InvalidInputError:
            self._engine.discard(self._store, written)
            raise
        change = AddFragments(
            record=OperationRecord(kind="append", rows_added=written.rows),
            summary={"rows": written.rows, "fragments": len(written.fragments), "bytes": written.bytes},
            fragments=written.fragments,
            features=written.features,
            shards=shards,
            first_row_id=version.next_row_id,
            schema=version.schema if self._pending else None,
            completing=None if self._pending else self._completing(version),
        )
        try:
            self._commit(change, base=version, idempotency=mark)
        except REFUSALS:
            self._engine.discard(self._store, written)
            self._engine.discard_files(self._store, (), [shard.path for shard in shards.values()])
            raise
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _scan(
        self, columns: Iterable[str] | None, where: object | None, limit: int | None
    ) -> pa.RecordBatchReader:
        names = select_columns(self._snapshot.schema, columns, extra=(ROW_ID,))
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InvalidInputError(f"limit must be a whole number from 0 up, not {limit!r}")
        return self._engine.scan(self._snapshot, ScanRequest(columns=tuple(names), where=where, limit=limit))
