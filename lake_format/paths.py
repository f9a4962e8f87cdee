"""Where each object of a table lies, relative to the table's root. The only place that knows.

Data files stand alone in ``data/`` so that any engine may read that folder; everything else is under ``_lake/``.
Files are shared by all lines (main and branches); versions and their hint each line has for itself.
"""

from __future__ import annotations

import re
from uuid import UUID

__all__ = ["DATA", "INDEXES", "KEYS", "LATEST", "MANIFESTS", "METADATA", "VERSIONS"]
__all__ += ["data_path", "index_path", "keys_path", "manifest_path", "version_number", "version_path"]
__all__ += ["JOBS", "job_plan_path", "job_record_path", "key_run_path"]
__all__ += [
    "BRANCHES",
    "HISTORY",
    "LINES",
    "PINS",
    "checkpoint_number",
    "checkpoint_path",
    "hint_path",
    "history_folder",
]
__all__ += ["line_number", "line_path", "versions_folder"]

METADATA = "_lake/"
VERSIONS = "_lake/versions/"
"""The versions of main."""
HISTORY = "_lake/history/"
"""The history checkpoints of main."""
MANIFESTS = "_lake/manifests/"
INDEXES = "_lake/indexes/"
KEYS = "_lake/keys/"
JOBS = "_lake/jobs/"
LINES = "_lake/lines/"
PINS = "_lake/pins/"
BRANCHES = "_lake/branches/"
DATA = "data/"
LATEST = "_lake/latest"
"""The hint of main."""

_NUMBERED = re.compile(r"\d{20}\.lake")
_LINE_NAME = re.compile(r"_lake/lines/(\d{7})\.line")


def _line_home(line: int) -> str:
    """The folder of what each line has for itself; main, line 0, has it beside what all share."""
    return f"{BRANCHES}{line:07d}/" if line else METADATA


def line_path(line: int) -> str:
    """The object whose creation takes the number of a line; it is never removed."""
    return f"{LINES}{line:07d}.line"


def line_number(path: str) -> int | None:
    """The line whose number an object takes, or None for any other object."""
    match = _LINE_NAME.fullmatch(path)
    return int(match[1]) if match else None


def versions_folder(line: int = 0) -> str:
    """Where the version objects of a line are."""
    return f"{_line_home(line)}versions/"


def version_path(version: int, line: int = 0) -> str:
    """The object whose creation is the commit of ``version`` on a line."""
    return f"{versions_folder(line)}{version:020d}.lake"


def version_number(path: str, line: int = 0) -> int | None:
    """The version of a line that a path of its versions folder stands for, or None for a foreign name."""
    return _number(path, versions_folder(line))


def history_folder(line: int = 0) -> str:
    """Where the history checkpoints of a line are."""
    return f"{_line_home(line)}history/"


def checkpoint_path(version: int, line: int = 0) -> str:
    """The history checkpoint written after ``version`` of a line."""
    return f"{history_folder(line)}{version:020d}.lake"


def checkpoint_number(path: str, line: int = 0) -> int | None:
    """The version that a path of a line's history folder stands for, or None for a foreign name."""
    return _number(path, history_folder(line))


def _number(path: str, folder: str) -> int | None:
    name = path.removeprefix(folder)
    return int(name[:20]) if name != path and _NUMBERED.fullmatch(name) else None


def hint_path(line: int = 0) -> str:
    """A copy of a recent version of a line, where readers start to look for the newest."""
    return f"{_line_home(line)}latest"


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
