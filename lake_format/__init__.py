"""lake-format: versioned vector tables over Parquet and Vortex files.

>>> import lake_format as lake
>>> table = lake.open("s3://bucket/items")            # doctest: +SKIP
>>> table.search(query, k=10, where="price < 10")     # doctest: +SKIP

Names are loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lake_format.api import create, open, restore_backup  # noqa: A004 - the name every table library uses
    from lake_format.catalog import list_tables
    from lake_format.errors import (
        AlreadyExistsError,
        ConflictError,
        CorruptionError,
        InvalidInputError,
        LakeError,
        NotFoundError,
        NotWrittenError,
        StateUnknownError,
        StorageError,
        UnsupportedError,
    )
    from lake_format.expressions import sql
    from lake_format.result import SearchResult
    from lake_format.row_edits import DuplicateKeyError
    from lake_format.store.consent import ExternalNotAllowedError
    from lake_format.table import Table

__version__ = "0.1.0"

_HOME = {
    "create": "lake_format.api",
    "open": "lake_format.api",
    "restore_backup": "lake_format.api",
    "list_tables": "lake_format.catalog",
    "Table": "lake_format.table",
    "SearchResult": "lake_format.result",
    "DuplicateKeyError": "lake_format.row_edits",
    "ExternalNotAllowedError": "lake_format.store.consent",
    "sql": "lake_format.expressions",
}

__all__ = [
    "AlreadyExistsError",
    "ConflictError",
    "CorruptionError",
    "DuplicateKeyError",
    "ExternalNotAllowedError",
    "InvalidInputError",
    "LakeError",
    "NotFoundError",
    "NotWrittenError",
    "SearchResult",
    "StateUnknownError",
    "StorageError",
    "Table",
    "UnsupportedError",
    "create",
    "list_tables",
    "open",
    "restore_backup",
    "sql",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'lake_format' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME.get(name, "lake_format.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
