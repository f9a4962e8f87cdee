"""What the partition values of a version's fragments say about columns, for all fragments at once.

A value bounds its source column as statistics do, so it simply narrows them: whoever prunes by bounds prunes by
partitions (spec/partitions.md, PAR-6). Buckets have no order; they answer whether a value may be there. Vectorised
over fragments; a transform is looked at once per distinct value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.errors import CorruptionError
from lake_format.partitioning import PartitionField, PartitionSpec
from lake_format.schema import field_by_id
from lake_format.statistics import encode_bound

__all__ = ["PartitionValues"]

_Mask = npt.NDArray[np.bool_]
_Bounds = tuple[pa.Array, pa.Array, pa.Array, pa.Array]
_NO_SPEC = -1


class PartitionValues:
    """The partitions of a version's fragments, checked against its specs.

    Parameters
    ----------
    table
        The manifests' rows.
    specs, schema
        The version's partition specs and its current schema.

    Raises
    ------
    CorruptionError
        A fragment names an unknown spec or has another number of values than its fields.
    """

    def __init__(self, table: pa.Table, specs: Mapping[int, PartitionSpec], schema: pa.Schema) -> None:
        self._specs = specs
        self._schema = schema
        self._rows = table.column("row_count").combine_chunks()
        column = table.column("partition").combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        spec_ids, lists = column.flatten()
        if spec_ids.null_count > column.null_count:
            raise CorruptionError("a fragment is in a partition of no spec")
        self.spec_ids = np.asarray(spec_ids.fill_null(0).to_numpy(zero_copy_only=False)).astype(np.int64)
        self.spec_ids[np.asarray(column.is_null().to_numpy(zero_copy_only=False))] = _NO_SPEC
        self._lists = lists
        self._check(table)

    def _check(self, table: pa.Table) -> None:
        lengths = np.asarray(
            pc.fill_null(pc.list_value_length(self._lists), 0).to_numpy(zero_copy_only=False)
        )
        for spec_id in np.unique(self.spec_ids).tolist():
            if spec_id == _NO_SPEC:
                continue
            spec = self._specs.get(spec_id)
            rows = self.spec_ids == spec_id
            if spec is None or not spec.fields or (lengths[rows] != len(spec.fields)).any():
                at = int(np.flatnonzero(rows)[0])
                raise CorruptionError(
                    f"fragment {table.column('fragment_id')[at]} is in a partition of spec {spec_id}, "
                    "which the table does not have or which has another number of fields"
                )

    def narrowed(self, identity: int, found: _Bounds | None) -> _Bounds | None:
        """Statistics of a field, made tighter by what the partitions say about it."""
        for mask, values, field in self._fields(identity):
            column = field_by_id(self._schema, identity)
            if column is None:
                continue
            if found is None:
                kinds = (pa.binary(), pa.binary(), pa.uint64(), pa.uint64())
                found = tuple(pa.nulls(len(self._rows), kind) for kind in kinds)
            codes, distinct = _distinct(values)
            intervals = [
                (None, None) if one is None else field.transform.interval(one, column.type)
                for one in distinct
            ]
            lower, upper = (
                pa.array([pair[end] for pair in intervals], pa.binary()).take(codes) for end in (0, 1)
            )
            null = np.array([one is None for one in distinct], bool)[codes.to_numpy()]
            nulls = pa.array(np.where(null, self._rows.to_numpy(), 0), pa.uint64())
            here = pa.array(mask)
            found = (
                pc.max_element_wise(found[0], lower),
                pc.min_element_wise(found[1], upper),
                pc.if_else(here, nulls, found[2]),
                found[3],
            )
        return found

    def may_equal(self, identity: int, options: pa.Array) -> _Mask | None:
        """Where a field may equal one of ``options``, going by buckets; None where no fragment has any of it."""
        answer: _Mask | None = None
        for mask, values, field in self._fields(identity):
            if field.transform.name != "bucket":
                continue
            answer = np.ones(len(mask), bool) if answer is None else answer
            buckets = field.transform.apply(options).unique()
            wanted = pa.array([encode_bound(one) for one in buckets if one.is_valid], pa.binary())
            answer &= ~mask | np.asarray(pc.is_in(values, value_set=wanted).to_numpy(zero_copy_only=False))
        return answer

    def _fields(self, identity: int) -> Iterator[tuple[_Mask, pa.Array, PartitionField]]:
        """Fragments parted by the field, their values (NULL for others), and how they were parted."""
        for spec in self._specs.values():
            for place, field in enumerate(spec.fields):
                if field.source_id == identity and (mask := self.spec_ids == spec.spec_id).any():
                    yield mask, self._column(mask, place), field

    def _column(self, mask: _Mask, place: int) -> pa.Array:
        rows = np.flatnonzero(mask)
        picked = pc.list_element(self._lists.take(pa.array(rows)), place)
        back = np.zeros(len(mask), np.int64)
        back[rows] = np.arange(len(rows))
        return picked.take(pa.array(back, mask=~mask))


def _distinct(values: pa.Array) -> tuple[pa.Array, list[bytes | None]]:
    encoded = values.dictionary_encode(null_encoding="encode")
    return encoded.indices, encoded.dictionary.to_pylist()
