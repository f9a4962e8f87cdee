"""What an object's path may look like: the one place that decides, for metadata and for stores.

Two rules, one inside the other. :func:`check_path` is the grammar of every path that the format itself
writes or reads from its own metadata (``spec/storage.md``, STO-1 to STO-3). :func:`check_store_path` is what
a store accepts at all; it is wider because imported files were named by somebody else. A path in metadata may
also lie in an *external root*, ``@<number>/<path>`` (STO-9): :func:`check_object_path` takes either. All look at
text only: whether a folder is a link that leads elsewhere is for the store to find out.
"""

from __future__ import annotations

import re
from typing import Final

from lake_format.errors import CorruptionError, InvalidInputError

__all__ = [
    "MAX_PART_BYTES",
    "MAX_PATH_BYTES",
    "check_object_path",
    "check_path",
    "check_prefix",
    "check_store_path",
    "external_path",
    "is_external",
    "is_store_path",
    "split_external",
]

MAX_PATH_BYTES: Final = 900
"""Longest path in bytes; object stores allow 1,024 for the root's own prefix and the path together."""

MAX_PART_BYTES: Final = 200
"""Longest part in bytes; common file systems allow 255."""

_PART = r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*"
_PATH = re.compile(rf"{_PART}(?:/{_PART})*")
_EXTERNAL = re.compile(r"@([1-9][0-9]{0,9})/(.*)", re.DOTALL)
_LARGEST_ROOT: Final = (1 << 32) - 1
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")


def check_path(path: str) -> str:
    """Return ``path`` if it obeys the path grammar of the format; meant for untrusted metadata.

    Parameters
    ----------
    path
        Parts of ``[A-Za-z0-9._=-]+``, none of them starting with a dot, joined with ``/``; at most
        900 bytes, 200 a part.

    Raises
    ------
    CorruptionError
        The path is anything else: metadata that holds it was not written by a writer of this format.
    """
    if not isinstance(path, str):
        raise CorruptionError(f"object path must be text, not {type(path).__name__}")
    if _PATH.fullmatch(path) is None or _too_long(path):
        raise CorruptionError(
            f"object path {_shown(path)} is not allowed in a table",
            fix="paths are parts of letters, digits and ._=- joined with '/', not starting with a dot",
        )
    return path


def check_object_path(path: str) -> str:
    """Return ``path`` if it is one of the table's own objects or names one in an external root (STO-9).

    Raises
    ------
    CorruptionError
        It is neither.
    """
    if not isinstance(path, str) or not path.startswith("@"):
        return check_path(path)
    match = _EXTERNAL.fullmatch(path)
    if match is None or int(match[1]) > _LARGEST_ROOT:
        raise CorruptionError(
            f"object path {_shown(path)} does not name an external root as @<number>/<path>"
        )
    reason = _refusal(match[2])
    if reason is not None:
        raise CorruptionError(f"object path {_shown(path)} {reason}")
    return path


def external_path(root: int, path: str) -> str:
    """The path of an object in an external root, as metadata writes it."""
    return check_object_path(f"@{root}/{path}")


def is_external(path: str) -> bool:
    """Whether a path of metadata lies in an external root."""
    return path.startswith("@")


def split_external(path: str) -> tuple[int | None, str]:
    """The number of the external root a path lies in, and the path there; None and the path for an own object."""
    if not path.startswith("@"):
        return None, path
    number, slash, inner = path[1:].partition("/")
    if not (slash and number.isascii() and number.isdigit()):
        raise CorruptionError(
            f"object path {_shown(path)} does not name an external root as @<number>/<path>"
        )
    return int(number), inner


def check_store_path(path: str) -> str:
    """Return ``path`` if a store may use it: relative, inside the root, free of tricks.

    Raises
    ------
    InvalidInputError
        The path is empty, absolute, has an empty, ``.``, ``..`` or dot-leading part (these names are the
        store's own), a backslash, a control character, a lone surrogate, or is too long.
    """
    # The grammar's own paths are nearly all that ever comes here: one match settles them.
    if _PATH.fullmatch(path) is not None and len(path) <= MAX_PART_BYTES:
        return path
    reason = _refusal(path)
    if reason is not None:
        raise InvalidInputError(
            f"object path {_shown(path)} {reason}",
            fix="give a path relative to the root, parts joined with '/', none starting with a dot",
        )
    return path


def is_store_path(path: str) -> bool:
    """Whether :func:`check_store_path` accepts ``path``; a listing shows nothing else."""
    return (_PATH.fullmatch(path) is not None and len(path) <= MAX_PART_BYTES) or _refusal(path) is None


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it is ``""`` (the root) or a folder path that ends in ``/``.

    Raises
    ------
    InvalidInputError
        It is neither.
    """
    if prefix == "":
        return prefix
    if not prefix.endswith("/"):
        raise InvalidInputError(
            f"listing prefix {_shown(prefix)} does not end in '/'", fix="list a folder or ''"
        )
    check_store_path(prefix[:-1])
    return prefix


def _refusal(path: str) -> str | None:
    """Why a store refuses ``path``, or None."""
    if path == "":
        return "is empty"
    if path.startswith("/"):
        return "is absolute"
    if _FORBIDDEN.search(path):
        return "holds a backslash or a control character"
    for part in path.split("/"):
        if part == "":
            return "has an empty part"
        if part.startswith("."):
            return f"has the part {part!r}: names that start with a dot are not objects"
    try:
        too_long = _too_long(path)
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return "is too long" if too_long else None


def _too_long(path: str) -> bool:
    if len(path.encode()) > MAX_PATH_BYTES:
        return True
    return any(len(part.encode()) > MAX_PART_BYTES for part in path.split("/"))


def _shown(path: str) -> str:
    """``path`` quoted, escaped and cut, fit for a message."""
    return ascii(path if len(path) <= 120 else path[:117] + "...")
