"""The Arrow types that DataFusion is not shown, and what stands in for them."""

from __future__ import annotations

import pyarrow as pa

from lake_connectors.adapter.types import EngineTypes

__all__ = ["TYPES"]

TYPES = EngineTypes(
    ((pa.types.is_float16, lambda _: pa.float32()),)  # vectors' storage; distances are computed on 32 bits
)
"""What DataFusion takes: nearly everything that Arrow has."""
