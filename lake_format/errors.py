"""Every error a user of lake-format can meet, grouped by what the caller can do about it.

::

    LakeError
    ├── ConflictError       another commit overlaps yours: look at the new version, then retry
    ├── StateUnknownError   a commit may or may not have landed: refresh and look before retrying
    ├── NotFoundError       the table, version, index or object is not there
    │   └── MissingObjectError  a stored object is not
    ├── AlreadyExistsError  the table or object is there already
    ├── InvalidInputError   an argument or a value is wrong: mend it (also a ``ValueError``)
    ├── UnsupportedError    understood, but this release (or this file) cannot do it
    ├── StorageError        the store failed: permissions, disk, network
    │   └── NotWrittenError a write was refused before it could take effect
    └── CorruptionError     stored bytes are not what the format says they must be

An error says what is wrong, where, and — in ``fix`` — how to mend it. ``code`` is stable across releases.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AlreadyExistsError",
    "ConflictError",
    "CorruptionError",
    "InvalidInputError",
    "LakeError",
    "MissingObjectError",
    "NotFoundError",
    "NotWrittenError",
    "StateUnknownError",
    "StorageError",
    "UnsupportedError",
]


class LakeError(Exception):
    """Root of all errors raised by lake-format.

    Parameters
    ----------
    what
        What is wrong and where: names the column, value, file or option.
    fix
        What the caller can do about it; appended to the message.
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        super().__init__(f"{what} — {fix}" if fix else what)
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the two parts, so that errors cross process borders whole."""
        return (_rebuild, (type(self), self.what, self.fix))


def _rebuild(kind: type[LakeError], what: str, fix: str | None) -> LakeError:
    return kind(what, fix=fix)


class ConflictError(LakeError):
    """Another commit overlaps this one in a way that cannot be merged; nothing was written."""

    code = "conflict"


class StateUnknownError(LakeError):
    """The outcome of a commit could not be learnt; refresh the table and look for its commit id."""

    code = "state_unknown"


class NotFoundError(LakeError, LookupError):
    """The table, version, column group or stored object does not exist."""

    code = "not_found"


class MissingObjectError(NotFoundError):
    """A stored object does not exist; what it belonged to may."""


class AlreadyExistsError(LakeError):
    """The table or stored object exists already."""

    code = "already_exists"


class InvalidInputError(LakeError, ValueError):
    """An argument, option or value is wrong."""

    code = "invalid_input"


class UnsupportedError(LakeError):
    """The request is understood but not supported by this release or by this file."""

    code = "unsupported"


class StorageError(LakeError):
    """The store refused or failed: permissions, disk full, network."""

    code = "storage"


class NotWrittenError(StorageError):
    """The store refused a write, and nothing of it took effect: permission denied, disk full, read-only."""

    code = "not_written"


class CorruptionError(LakeError):
    """Stored bytes are truncated, altered or contradict the format."""

    code = "corruption"
