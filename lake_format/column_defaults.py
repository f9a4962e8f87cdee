"""Declared defaults: the value a column has in all rows of fragments that hold none of it.

The default lies in the metadata of the column's field, as an Arrow IPC stream of one row, and is fixed once declared
(spec/tables.md, SCH-9). It comes from storage, so it is checked before use. Pure; no I/O.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from functools import lru_cache

import pyarrow as pa

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.schema import DEFAULT_KEY, child_fields
from lake_format.statistics import ColumnStatistics, compute_statistics, is_binary_like

__all__ = [
    "DEFAULTS_FEATURE",
    "MOST_BYTES",
    "declarable",
    "default_of",
    "default_statistics",
    "default_text",
    "default_values",
    "with_default",
    "with_type",
]

DEFAULTS_FEATURE = "column-defaults"
MOST_BYTES = 1024
"""A longer text is written to files and does not weigh on every version."""
_MOST_STORED = 8192
_NAME = "value"


def declarable(value: pa.Array) -> bool:
    """Whether a value, an array of one, may be a default: a plain one that is not NULL, and not long."""
    data_type = value.type
    plain = not child_fields(data_type) and not pa.types.is_dictionary(data_type)
    return plain and value.null_count == 0 and _length(value[0]) <= MOST_BYTES


def with_default(field: pa.Field, value: pa.Array) -> pa.Field:
    """The field with a default, an array of one value of its type; its other metadata stays."""
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_arrays([value], [_NAME])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    stored = base64.b64encode(sink.getvalue())
    return field.with_metadata({**(field.metadata or {}), DEFAULT_KEY: stored})


def default_of(field: pa.Field) -> pa.Scalar | None:
    """The declared default of a top-level column; None where it has none.

    Raises
    ------
    CorruptionError
        What is stored is no value of the column's type.
    """
    stored = (field.metadata or {}).get(DEFAULT_KEY)
    if stored is None:
        return None
    value = _decoded(stored) if len(stored) <= _MOST_STORED else None
    if value is None or value.type != field.type:
        raise CorruptionError(
            f"the declared default of column {field.name!r} is no value of type {field.type}"
        )
    return value


def default_text(field: pa.Field) -> str | None:
    """The declared default for people to read; None where the column has none."""
    value = default_of(field)
    if value is None:
        return None
    try:
        return str(value.cast(pa.string()).as_py())
    except (pa.ArrowException, UnicodeDecodeError):  # bytes that are no text, and types without a spelling
        return str(value)


def default_values(field: pa.Field, rows: int) -> pa.Array:
    """The values of a column in rows of a fragment that holds none of it: its default, or NULL."""
    value = default_of(field)
    return pa.nulls(rows, field.type) if value is None else pa.repeat(value, rows)


def default_statistics(field: pa.Field, field_id: int, rows: int) -> ColumnStatistics | None:
    """Statistics of a column in a fragment of so many rows that holds none of it; None without a default."""
    value = default_of(field)
    if value is None:
        return None
    one = compute_statistics(pa.repeat(value, 1), field_id)
    return replace(one, nan_count=None if one.nan_count is None else one.nan_count * rows)


def with_type(field: pa.Field, target: pa.DataType) -> pa.Field:
    """The field with a wider plain type, its default converted with it.

    Raises
    ------
    InvalidInputError
        The wider type cannot hold the default.
    """
    value = default_of(field)
    widened = field.with_type(target)
    if value is None:
        return widened
    try:
        return with_default(widened, pa.repeat(value, 1).cast(target))
    except pa.ArrowException as error:
        raise InvalidInputError(
            f"column {field.name!r} has the default {value.as_py()!r}, which {target} cannot hold: {error}",
            fix="take another type, or add a column of the new type",
        ) from error


@lru_cache(1024)
def _decoded(stored: bytes) -> pa.Scalar | None:
    try:
        with pa.ipc.open_stream(base64.b64decode(stored, validate=True)) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, binascii.Error):
        return None
    if table.shape != (1, 1) or not declarable(value := table.column(0).combine_chunks()):
        return None
    return value[0]


def _length(value: pa.Scalar) -> int:
    """Bytes of a value of any length; those of a fixed width are short."""
    found = value.as_py() if _is_text_or_bytes(value.type) else b""
    return len(found.encode() if isinstance(found, str) else found)


def _is_text_or_bytes(data_type: pa.DataType) -> bool:
    types = pa.types
    text = types.is_string(data_type) or types.is_large_string(data_type) or types.is_string_view(data_type)
    return bool(text or is_binary_like(data_type))
