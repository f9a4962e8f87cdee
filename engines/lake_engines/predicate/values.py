"""Bound values: what a filter computes per row before it compares — columns, constants, functions of them.

Every value knows its Arrow type, so that nothing is decided (and nothing can fail) while rows are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.exact import scale_of
from lake_format.errors import InvalidInputError
from lake_format.statistics import unscaled, value_type

__all__ = ["Computed", "Constant", "FieldValue", "Value", "plain_type"]

Kernel = Callable[[Any], Any]
"""A function of one Arrow array, row by row, that yields NULL for NULL."""


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type in which values of ``dtype`` are compared: exact, not encoded, with kernels."""
    dtype, is_ = value_type(dtype), pa.types
    if is_.is_float16(dtype):
        return pa.float32()
    if is_.is_decimal32(dtype) or is_.is_decimal64(dtype):
        return pa.decimal128(dtype.precision, dtype.scale)
    if is_.is_string_view(dtype):
        return pa.string()
    if is_.is_binary_view(dtype) or is_.is_fixed_size_binary(dtype):
        return pa.binary()
    return dtype


class Value:
    """A value per row, of a known type."""

    dtype: pa.DataType
    columns: frozenset[str]

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Least and greatest stored integer that can occur; ``None`` if values are not stored as integers."""
        scale = scale_of(self.dtype)
        return None if scale is None else (scale.low, scale.high)

    def evaluate(self, batch: pa.RecordBatch) -> Any:
        """Compute the values for all rows of ``batch``: an array of ``dtype``, or a scalar if constant."""
        return self._compute(batch)

    def apply(self, batch: pa.RecordBatch, kernel: Kernel) -> Any:
        """Compute ``kernel`` of the values; cheaper for columns whose values are encoded."""
        return kernel(self._compute(batch))

    def _compute(self, batch: pa.RecordBatch) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class FieldValue(Value):
    """A column or a member of a struct column.

    ``field_id`` is the permanent id, if known; ``stored`` is the type in the schema and ``dtype`` the type it is
    compared in.
    """

    path: tuple[str, ...]
    stored: pa.DataType
    dtype: pa.DataType
    field_id: int | None

    @cached_property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        """The one top-level column."""
        return frozenset(self.path[:1])

    def __str__(self) -> str:
        return ".".join(self.path)

    def raw(self, batch: pa.RecordBatch) -> Any:
        """Return the column as it lies in the batch, encoded or not."""
        index = batch.schema.get_field_index(self.path[0])
        if index < 0:
            raise InvalidInputError(f"the rows given to the filter lack the column '{self.path[0]}'")
        array = batch.column(index)
        return pc.struct_field(array, list(self.path[1:])) if len(self.path) > 1 else array

    def _compute(self, batch: pa.RecordBatch) -> Any:
        return _plain(self.raw(batch), self.dtype)

    def apply(self, batch: pa.RecordBatch, kernel: Kernel) -> Any:
        """Compute ``kernel`` once per distinct value where the column is a dictionary."""
        array = self.raw(batch)
        if pa.types.is_dictionary(array.type) and len(array.dictionary) < len(array):
            return kernel(_plain(array.dictionary, self.dtype)).take(array.indices)
        return kernel(_plain(array, self.dtype))


def _plain(array: Any, dtype: pa.DataType) -> Any:
    if array.type == dtype:
        return array
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage, dtype)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode(), dtype)
    if pa.types.is_run_end_encoded(array.type):
        return _plain(pc.run_end_decode(array), dtype)
    return array.cast(dtype)


@dataclass(frozen=True)
class Constant(Value):
    """The same value for every row."""

    scalar: pa.Scalar

    columns = frozenset[str]()

    @property
    def dtype(self) -> pa.DataType:
        """Type of the constant."""
        return self.scalar.type

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The value itself."""
        if scale_of(self.dtype) is None or not self.scalar.is_valid:
            return None
        if pa.types.is_decimal(self.dtype):
            number = unscaled(self.scalar.as_py(), self.dtype.scale)
        else:
            number = self.scalar.as_py() if pa.types.is_integer(self.dtype) else self.scalar.value
        return number, number

    def _compute(self, batch: pa.RecordBatch) -> Any:
        return self.scalar


@dataclass(frozen=True)
class Computed(Value):
    """A function of other values."""

    function: Callable[..., Any]
    arguments: tuple[Value, ...]
    dtype: pa.DataType
    limits: tuple[int, int] | None = None

    @cached_property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        """The columns of all arguments."""
        return frozenset[str]().union(*(argument.columns for argument in self.arguments))

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The limits known from the arguments, or those of the type."""
        return self.limits if self.limits is not None else super().bounds

    def _compute(self, batch: pa.RecordBatch) -> Any:
        return self.function(*(argument.evaluate(batch) for argument in self.arguments))
