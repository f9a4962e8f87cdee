"""Where each object of a table lies, relative to the table's root. The only place that knows.

Data files stand alone in ``data/`` so that any engine may read that folder; everything else is under ``_lake/``.
"""

from __future__ import annotations

import re
from uuid import UUID

__all__ = ["DATA", "INDEXES", "KEYS", "LATEST", "MANIFESTS", "METADATA", "VERSIONS"]
__all__ += ["data_path", "index_path", "keys_path", "manifest_path", "version_number", "version_path"]
__all__ += ["HISTORY", "JOBS", "checkpoint_number", "checkpoint_path", "job_plan_path", "job_record_path"]
__all__ += ["key_run_path"]

METADATA = "_lake/"
VERSIONS = "_lake/versions/"
HISTORY = "_lake/history/"
MANIFESTS = "_lake/manifests/"
INDEXES = "_lake/indexes/"
KEYS = "_lake/keys/"
JOBS = "_lake/jobs/"
DATA = "data/"
LATEST = "_lake/latest"

_VERSION_NAME = re.compile(r"^_lake/versions/(\d{20})\.lake$")
_CHECKPOINT_NAME = re.compile(r"^_lake/history/(\d{20})\.lake$")


def version_path(version: int) -> str:
    """The object whose creation is the commit of ``version``."""
    return f"{VERSIONS}{version:020d}.lake"


def version_number(path: str) -> int | None:
    """The version a path of the versions folder stands for, or None for a foreign name."""
    match = _VERSION_NAME.match(path)
    return int(match[1]) if match else None


def checkpoint_path(version: int) -> str:
    """The history checkpoint written after ``version``."""
    return f"{HISTORY}{version:020d}.lake"


def checkpoint_number(path: str) -> int | None:
    """The version a path of the history folder stands for, or None for a foreign name."""
    match = _CHECKPOINT_NAME.match(path)
    return int(match[1]) if match else None


def manifest_path(unique: UUID) -> str:
    """A new manifest's path."""
    return f"{MANIFESTS}{unique}.arrow"


def index_path(unique: UUID) -> str:
    """A new index shard's path."""
    return f"{INDEXES}{unique}.puffin"


def keys_path(unique: UUID) -> str:
    """A new key-hash object's path: the hashes of a commit that brought too many for its record."""
    return f"{KEYS}{unique}.keys"


def key_run_path(unique: UUID) -> str:
    """A new path for a run of the key index."""
    return f"{INDEXES}{unique}.keys.puffin"


def job_plan_path(job: str) -> str:
    """What a job is to do, written once by whoever starts it."""
    return f"{JOBS}{job}/plan"


def job_record_path(job: str, fragment_id: int) -> str:
    """What a job's worker wrote for one fragment; its creation makes that fragment done."""
    return f"{JOBS}{job}/{fragment_id:020d}"


def data_path(unique: UUID, suffix: str) -> str:
    """A new data file's path; ``suffix`` is ``parquet`` or ``vortex``."""
    return f"{DATA}{unique}.{suffix}"
