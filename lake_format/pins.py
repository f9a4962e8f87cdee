"""Pins: objects in a table that keep the versions its clones share; and what a clone says of where it comes from.

A pin names a version by its own name alone, so that one listing tells a collector everything; what is in it is for
people. Making and removing one is no commit (spec/copies.md, CPY-9; spec/identity.md, IDN-20).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    NotFoundError,
    NotWrittenError,
    UnsupportedError,
)
from lake_format.lines import MOST_LINES
from lake_format.paths import PINS
from lake_format.store.base import Store

__all__ = ["CloneSource", "Pin", "list_pins", "pinned_versions", "sources_from_json", "sources_to_json"]

_NAME = re.compile(r"(\d{7})-(\d{20})-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.pin")
_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A version that a clone shares.

    Attributes
    ----------
    line, version
        What is kept, with all that it names.
    table_id
        The clone's; it has one pin in each table whose files it shares.
    """

    line: int
    version: int
    table_id: str

    @property
    def path(self) -> str:
        """Where the pin is in the table it keeps a version of."""
        return f"{PINS}{self.line:07d}-{self.version:020d}-{self.table_id}.pin"

    def write(self, store: Store, told: Mapping[str, Any], folder: str = "") -> bool:
        """Make the pin; whether the store lets one be made there.

        Parameters
        ----------
        folder
            The table's root in the store: ``""``, or what ends in ``/``.
        """
        try:
            store.create(folder + self.path, json.dumps(told, sort_keys=True).encode())
        except AlreadyExistsError:  # nobody else makes one of this name: an answer was lost on the way
            return True
        except (NotWrittenError, UnsupportedError):
            return False
        return True

    def is_there(self, store: Store, folder: str = "") -> bool:
        """Whether it still keeps the version."""
        try:
            store.get(folder + self.path)
        except NotFoundError:
            return False
        return True

    def told(self, store: Store) -> dict[str, Any]:
        """What its writer put into it for people; nothing where that cannot be read."""
        try:
            found = json.loads(store.get(self.path))
        except (ValueError, NotFoundError):
            return {}
        return found if isinstance(found, dict) else {}


def list_pins(store: Store) -> list[Pin]:
    """The pins in a table, by line and version."""
    names = [_NAME.fullmatch(info.path.removeprefix(PINS)) for info in store.list(PINS)]
    pins = [Pin(line=int(name[1]), version=int(name[2]), table_id=name[3]) for name in names if name]
    return sorted(pins, key=lambda pin: (pin.line, pin.version, pin.table_id))


def pinned_versions(store: Store) -> dict[int, frozenset[int]]:
    """The versions that clones need whatever expires, by line."""
    pins = list_pins(store)
    lines = {pin.line for pin in pins}
    return {line: frozenset(pin.version for pin in pins if pin.line == line) for line in lines}


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneSource:
    """A table whose files a clone refers to.

    Attributes
    ----------
    root
        The number of the external root that is the table.
    table_id, line, version
        The version that the clone shares.
    pinned
        Whether a pin keeps it there; without one its files live only as long as the table itself needs them.
    """

    root: int
    table_id: str
    line: int
    version: int
    pinned: bool


def sources_to_json(sources: tuple[CloneSource, ...]) -> list[dict[str, Any]]:
    """Plain dicts for JSON."""
    return [{name: getattr(one, name) for name in CloneSource.__slots__} for one in sources]


def sources_from_json(raw: object, roots: Mapping[int, str]) -> tuple[CloneSource, ...]:
    """Check and take what a version says of the tables it was cloned from; CorruptionError for anything else."""
    if not isinstance(raw, list):
        raise CorruptionError(f"the tables it was cloned from are {raw!r}")
    return tuple(_source(one, roots) for one in raw)


def _source(raw: object, roots: Mapping[int, str]) -> CloneSource:
    match raw:
        case {
            "root": int() as root,
            "table_id": str() as table_id,
            "line": int() as line,
            "version": int() as version,
            "pinned": bool() as pinned,
        } if root in roots and 0 <= line < MOST_LINES and 0 < version < _LIMIT:
            return CloneSource(root=root, table_id=table_id, line=line, version=version, pinned=pinned)
    raise CorruptionError(f"a table it was cloned from is described as {raw!r}")
