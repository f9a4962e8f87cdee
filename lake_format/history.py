"""Which version is meant by a time, a number or a tag; and the commits that move tags or restore a version.

Reads version objects only, never manifests or data files (spec/versions.md).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from lake_format.draft import Draft
from lake_format.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from lake_format.keys import key_field_ids
from lake_format.lines import needed_versions
from lake_format.log import ExpiredError
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.schema import field_id, walk_fields
from lake_format.snapshot import Snapshot

__all__ = [
    "MoveTag",
    "RestoreVersion",
    "check_tag",
    "is_kept",
    "is_tag",
    "moment_of",
    "require_kept",
    "tagged",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/]{0,127}")


def moment_of(when: object) -> int:
    """A moment in microseconds since the epoch.

    Parameters
    ----------
    when
        A ``datetime`` with a time zone, or ISO 8601 text with one, such as ``2026-03-01T12:00:00Z``. A moment
        without a zone is refused: it would be another one on another machine.
    """
    given = when
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError as error:
            raise InvalidInputError(
                f"{when!r} is no moment in time", fix="write it as 2026-03-01T12:00:00Z"
            ) from error
    if not isinstance(given, datetime):
        raise InvalidInputError(f"{when!r} is no moment in time", fix="give a datetime, or ISO 8601 text")
    if given.utcoffset() is None:
        raise InvalidInputError(
            f"{when!r} has no time zone, so it does not say which moment it is",
            fix="add one: 2026-03-01T12:00:00Z, or datetime(..., tzinfo=datetime.UTC)",
        )
    return (given - _EPOCH) // timedelta(microseconds=1)


def is_kept(version: Version, number: int) -> bool:
    """Whether a version of this number can still be read, as far as ``version``, of the same line, tells."""
    if version.horizon <= number <= version.version or number in version.refs.values():
        return True
    return version.line == 0 and number in needed_versions(version.branches, 0)


def is_tag(name: object) -> bool:
    """Whether this can be the name of a tag or branch; no moment in ISO 8601 with a time of day can."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_tag(name: object) -> str:
    """A tag's name; InvalidInputError for what cannot be one."""
    if not is_tag(name):
        raise InvalidInputError(
            f"{name!r} cannot be the name of a tag",
            fix="use 1 to 128 letters, digits and _ . - /, starting with a letter, a digit or _",
        )
    return str(name)


def tagged(newest: Version, name: object) -> int:
    """The number a tag names; NotFoundError where there is no such tag."""
    number = newest.refs.get(check_tag(name))
    if number is None:
        known = ", ".join(sorted(newest.refs)) or "there are none"
        raise NotFoundError(f"there is no tag {name!r}", fix=f"tags are: {known}")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTag:
    """Make, move or remove a tag.

    Attributes
    ----------
    number
        The version to name; None removes the tag.
    move
        Whether a tag of that name may name another version by now.
    """

    name: str
    number: int | None
    move: bool = False
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """The name it claims."""
        return OperationRecord(kind="set_ref", claims=frozenset({f"ref:{self.name}"}))

    def apply(self, draft: Draft) -> OperationRecord:
        """Set the tag, if it may be set on the version at hand."""
        refs = draft.version.refs
        if self.number is None:
            tagged(draft.version, self.name)
        else:
            if not self.move and refs.get(self.name, self.number) != self.number:
                raise AlreadyExistsError(
                    f"the tag {self.name!r} names version {refs[self.name]}", fix="move it with move=True"
                )
            require_kept(draft.version, self.number)
        draft.set_reference(self.name, self.number)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Nothing is computed from the base; whether the version is still there is asked when applied."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreVersion:
    """Make the schema, rows and indexes of an older version current again."""

    old: Version
    summary: Mapping[str, Any]

    @property
    def record(self) -> OperationRecord:
        """The columns it brings back: their values were held to no rule that was made since."""
        columns = frozenset(field_id(one) for one in walk_fields(self.old.schema))
        return OperationRecord(kind="restore", fields_written=columns)

    def apply(self, draft: Draft) -> OperationRecord:
        """Take over what the older version lists."""
        require_kept(draft.version, self.old.version)
        wanted, had = key_field_ids(draft.version.properties), key_field_ids(self.old.properties)
        if wanted and wanted != had:
            raise InvalidInputError(
                f"version {self.old.version} was not held to the key the table has now",
                fix="read it with checkout() and write its rows anew",
            )
        draft.restore(self.old)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """The older version is what it is."""
        return self


def require_kept(version: Version, number: int) -> None:
    """Raise NotFoundError where a version of this number is not there (yet), or not kept."""
    if number > version.version:
        raise NotFoundError(f"there is no version {number} yet", fix=f"the newest is {version.version}")
    if not is_kept(version, number):
        raise ExpiredError(
            f"version {number} has expired", fix=f"the oldest version kept is {version.horizon}"
        )
