"""Where each object of a table lies, relative to the table's root. The only place that knows.

Data files stand alone in ``data/`` so that any engine may read that folder; everything else is under ``_lake/``.
"""

from __future__ import annotations

import re
from uuid import UUID

__all__ = ["DATA", "INDEXES", "LATEST", "MANIFESTS", "METADATA", "VERSIONS"]
__all__ += ["data_path", "index_path", "manifest_path", "version_number", "version_path"]

METADATA = "_lake/"
VERSIONS = "_lake/versions/"
MANIFESTS = "_lake/manifests/"
INDEXES = "_lake/indexes/"
DATA = "data/"
LATEST = "_lake/latest"

_VERSION_NAME = re.compile(r"^_lake/versions/(\d{20})\.lake$")


def version_path(version: int) -> str:
    """The object whose creation is the commit of ``version``."""
    return f"{VERSIONS}{version:020d}.lake"


def version_number(path: str) -> int | None:
    """The version a path of the versions folder stands for, or None for a foreign name."""
    match = _VERSION_NAME.match(path)
    return int(match[1]) if match else None


def manifest_path(unique: UUID) -> str:
    """A new manifest's path."""
    return f"{MANIFESTS}{unique}.arrow"


def index_path(unique: UUID) -> str:
    """A new index shard's path."""
    return f"{INDEXES}{unique}.puffin"


def data_path(unique: UUID, suffix: str) -> str:
    """A new data file's path; ``suffix`` is ``parquet`` or ``vortex``."""
    return f"{DATA}{unique}.{suffix}"
