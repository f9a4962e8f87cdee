"""The default engine: scan, row access, search and index build over lake-format tables.

The engine is loaded when first asked for; parts such as :mod:`lake_engines.predicate` can be used without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lake_engines.engine import DefaultEngine

__all__ = ["DefaultEngine"]


def __getattr__(name: str) -> object:
    if name != "DefaultEngine":
        raise AttributeError(f"module 'lake_engines' has no attribute {name!r}")
    return importlib.import_module("lake_engines.engine").DefaultEngine
