"""Text as dictionaries: values once, codes per row, for consumers that group and compare by code. Pure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

__all__ = ["as_dictionaries", "encoded", "is_encoded", "plain", "with_dictionaries"]

_CODES = pa.int32()


def encoded(kind: pa.DataType) -> pa.DataType:
    """The dictionary type that stands for text of type ``kind``; other types as they are."""
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return pa.dictionary(_CODES, kind) if is_text else kind


def with_dictionaries(schema: pa.Schema) -> pa.Schema:
    """The schema with a dictionary for every column of text; text inside of nested columns stays."""
    return pa.schema([field.with_type(encoded(field.type)) for field in schema], metadata=schema.metadata)


def is_encoded(array: pa.Array, kind: pa.DataType) -> bool:
    """Whether ``array`` holds values of ``kind`` as a dictionary, where ``kind`` is none itself."""
    return pa.types.is_dictionary(array.type) and not pa.types.is_dictionary(kind)


def plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` without a dictionary that ``kind`` has not."""
    return array.dictionary_decode() if is_encoded(array, kind) else array


def as_dictionaries(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in a schema :func:`with_dictionaries`: text that is plain becomes a dictionary of all its values.

    That copies nothing: the codes count upwards.
    """
    if batch.schema.equals(schema):
        return batch
    arrays = [_dictionary(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _dictionary(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_dictionary(kind) or pa.types.is_dictionary(array.type):
        return array
    return pa.DictionaryArray.from_arrays(pa.array(np.arange(len(array), dtype=np.int32)), array)
