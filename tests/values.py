"""Values as tests compare them: by what they mean, not by how an engine or Arrow happens to hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def normal(value: Any) -> Any:
    """A value that compares by what it means: NaN equals itself, −0.0 is not 0.0."""
    if isinstance(value, float | np.floating):
        return ("nan",) if np.isnan(value) else (float(value), bool(np.signbit(value)))
    if isinstance(value, list | tuple):
        return [normal(item) for item in value]
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    return value


def raw(column: pa.ChunkedArray) -> list[Any]:
    """Values of a column; instants as integers, since Python's own have only microseconds."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time64(kind):
        return column.cast(pa.int64()).to_pylist()
    return column.to_pylist()
