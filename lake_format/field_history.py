"""What a version's schemas say about a field over time: the kind of its bounds and where it is missing.

Statistics are kept as they were written; this module tells which of them still mean what a reader of the present
schema takes them for (spec/statistics.md, STAT-8; spec/evolution.md, EVO-5). Pure; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.column_defaults import default_statistics
from lake_format.model import FILE_COLUMNS
from lake_format.schema import field_by_id, field_id, walk_fields
from lake_format.statistics import bound_kind

__all__ = ["FieldHistory"]

Bounds = tuple[pa.BinaryArray, pa.BinaryArray, pa.UInt64Array, pa.UInt64Array]
_I64 = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_NO_SCHEMA = -1
_KINDS = (pa.binary(), pa.binary(), pa.uint64(), pa.uint64())


class FieldHistory:
    """Answers, for one version, how its fragments hold a field.

    Parameters
    ----------
    schemas, schema_id
        Every schema of the version, and which one is current.
    """

    def __init__(self, schemas: Mapping[int, pa.Schema], schema_id: int) -> None:
        self._schemas = schemas
        self._schema_id = schema_id
        self._kinds: dict[int, dict[int, str | None]] = {}
        self._columns: dict[int, int] | None = None
        self._corrected: dict[int, Bounds | None] = {}

    def column_of(self, identity: int) -> int | None:
        """The id of the top-level column that holds this field; None for one that no schema has."""
        if self._columns is None:
            self._columns = {
                field_id(field): field_id(column)
                for schema in self._schemas.values()
                for column in schema
                for field in walk_fields([column])
            }
        return self._columns.get(identity)

    def _kinds_of(self, schema_id: int) -> dict[int, str | None]:
        if schema_id not in self._kinds:
            fields = walk_fields(self._schemas[schema_id]) if schema_id in self._schemas else ()
            self._kinds[schema_id] = {field_id(field): bound_kind(field.type) for field in fields}
        return self._kinds[schema_id]

    def corrected(self, identity: int, found: Bounds | None, table: pa.Table) -> Bounds | None:
        """Statistics of a field over all fragments, as a reader of the present schema may use them.

        Parameters
        ----------
        found
            ``(lower, upper, null_count, nan_count)`` as written, one entry a fragment; None where no fragment
            has any.
        table
            The manifests' rows, in the same order.
        """
        if len(self._schemas) < 2 or (column := self.column_of(identity)) is None:
            return found
        if identity not in self._corrected:
            self._corrected[identity] = self._correct(identity, column, found, table)
        return self._corrected[identity]

    def _correct(self, identity: int, column: int, found: Bounds | None, table: pa.Table) -> Bounds | None:
        comparable, missing = self._standing(identity, _newest_schema(table, column))
        if found is None:
            if not missing.any():
                return None
            found = tuple(pa.nulls(table.num_rows, kind) for kind in _KINDS)
        lower, upper, null_count, nan_count = found
        if not comparable.all():
            stays = pa.array(comparable)
            lower, upper, nan_count = (
                pc.if_else(stays, values, pa.scalar(None, values.type))
                for values in (lower, upper, nan_count)
            )
        if missing.any():
            known = lower, upper, null_count, nan_count
            return self._filled_in(identity, known, pa.array(missing), table.column("row_count"))
        return lower, upper, null_count, nan_count

    def _filled_in(
        self, identity: int, known: Bounds, missing: pa.Array, row_count: pa.ChunkedArray
    ) -> Bounds:
        """The statistics with what is known of fragments that lack the field: its default in all rows, or NULL."""
        rows, zero = row_count.combine_chunks(), pa.scalar(0, pa.uint64())
        column = field_by_id(self._schemas[self._schema_id], identity)
        value = None if column is None else default_statistics(column, identity, 1)
        if value is None:
            there = (pa.scalar(None, pa.binary()), pa.scalar(None, pa.binary()), rows, zero)
        else:
            bounds = (pa.scalar(bound, pa.binary()) for bound in (value.lower, value.upper))
            there = (*bounds, zero, rows if value.nan_count else zero)
        lower, upper, null_count, nan_count = (
            pc.if_else(missing, one, other) for one, other in zip(there, known, strict=True)
        )
        return lower, upper, null_count, nan_count

    def _standing(self, identity: int, written_with: _I64) -> tuple[_Mask, _Mask]:
        """Of which fragments the bounds still count, and in which the field is missing altogether."""
        comparable = np.zeros(len(written_with), bool)
        missing = np.zeros(len(written_with), bool)
        now = self._kinds_of(self._schema_id).get(identity)
        for schema_id in np.unique(written_with).tolist():
            rows, kinds = written_with == schema_id, self._kinds_of(schema_id)
            if identity not in kinds:
                missing |= rows
            elif kinds[identity] == now:
                comparable |= rows
        return comparable, missing


def _newest_schema(table: pa.Table, column: int) -> _I64:
    """For each fragment the newest schema that values of a column were written with, -1 where it has none."""
    found = np.full(table.num_rows, _NO_SCHEMA, np.int64)
    for name in FILE_COLUMNS:
        if table.column(name).null_count < table.num_rows:
            found = np.maximum(found, _written_with(table.column(name), column))
    return found


def _written_with(files: pa.ChunkedArray, column: int) -> _I64:
    lists = files.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], files.type)
    found = np.full(len(lists), _NO_SCHEMA, np.int64)
    values = lists.flatten()
    fragment_of_group = np.repeat(
        np.arange(len(lists)), pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    )
    field_ids = values.field("field_ids")
    group_of_id = np.repeat(np.arange(len(values)), pc.list_value_length(field_ids).to_numpy())
    holders = group_of_id[field_ids.flatten().to_numpy() == column]
    schemas = values.field("schema_id").to_numpy()[holders].astype(np.int64)
    np.maximum.at(found, fragment_of_group[holders], schemas)
    return found
