"""Lines of versions: main is line 0, every branch another; their numbers and what versions say about them.

A line's number is claimed by creating an object named by that number alone, which is never removed, so that ids are
given out on every line without asking the others (spec/identity.md, IDN-3; spec/branches.md). Values, their JSON
form and the claim; which commits make and remove a branch is said in :mod:`lake_format.branches`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lake_format.errors import AlreadyExistsError, CorruptionError, UnsupportedError
from lake_format.paths import LINES, line_number, line_path
from lake_format.store.base import Store

__all__ = ["BRANCH_FEATURE", "LINE_IDS", "MAIN", "MOST_LINES", "BranchEntry", "BranchOrigin"]
__all__ += ["branches_from_json", "claim_line", "line_of", "merges_from_json", "needed_versions"]
__all__ += ["origin_from_json", "require_room"]

MAIN = "main"
"""What line 0 is called; no branch can have this name."""
BRANCH_FEATURE = "branches"
"""Required by versions whose table has branches: a collector that does not know them would remove their files."""
LINE_IDS = 1 << 40
"""How many row ids, and how many fragment ids, a line can give out."""
MOST_LINES = 1 << 23
_LIMIT = 1 << 63


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchOrigin:
    """What the versions of a branch say of it: its line, its name, and the version it was made from.

    Attributes
    ----------
    dropped
        Whether this is the version that ends the line: the branch was deleted, and nothing follows.
    """

    name: str
    line: int
    parent_line: int
    parent_version: int
    dropped: bool = False

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return _plain(self, "dropped")


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEntry:
    """What main's versions say of a branch: where its versions are, and which versions it needs.

    Attributes
    ----------
    horizon
        Versions of the branch before this one may be collected; never above the horizon of its own versions.
    pins
        Versions of other branches, as (line, number), that are being merged into this one at the moment.
    """

    line: int
    parent_line: int
    parent_version: int
    horizon: int = 0
    pins: frozenset[tuple[int, int]] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        plain = _plain(self, "horizon", "pins")
        return {**plain, "pins": sorted(map(list, self.pins))} if self.pins else plain

    def with_pin(self, line: int, version: int) -> BranchEntry:
        """The entry with a version held for a merge into this branch."""
        return replace(self, pins=self.pins | {(line, version)})

    def without_pin(self, line: int, version: int, *, older: bool) -> BranchEntry:
        """The entry with a version let go; ``older``: with those before it, which cannot be merged any more."""
        gone = {
            (held, at)
            for held, at in self.pins
            if held == line and (at == version or (older and at < version))
        }
        return replace(self, pins=self.pins - gone)


def _plain(value: BranchOrigin | BranchEntry, *optional: str) -> dict[str, Any]:
    every = {name: getattr(value, name) for name in type(value).__slots__}
    return {name: one for name, one in every.items() if one or name not in optional}


def origin_from_json(raw: object) -> BranchOrigin | None:
    """Check and take what a version of a branch says of it; None on main. CorruptionError for anything else."""
    match raw:
        case None:
            return None
        case {"name": str() as name, "line": line, "parent_line": above, "parent_version": version, **others}:
            if not (
                _whole(line, MOST_LINES) and line and _whole(above, line) and _whole(version) and version
            ):
                raise CorruptionError(f"the origin of a branch is out of range: {raw!r}")
            return BranchOrigin(
                name=name,
                line=line,
                parent_line=above,
                parent_version=version,
                dropped=others.get("dropped") is True,
            )
    raise CorruptionError(f"the origin of a branch is {raw!r}")


def branches_from_json(raw: object) -> dict[str, BranchEntry]:
    """Check and take the branches a version of main lists; CorruptionError for anything else."""
    if not isinstance(raw, Mapping):
        raise CorruptionError(f"the branches of the table are {raw!r}")
    found = {name: _entry(name, one) for name, one in raw.items()}
    if len({entry.line for entry in found.values()}) < len(found):
        raise CorruptionError("two branches share a line")
    return found


def _entry(name: str, raw: object) -> BranchEntry:
    match raw:
        case {"line": line, "parent_line": above, "parent_version": version, **others}:
            horizon: Any = others.get("horizon", 0)
            pins: Any = others.get("pins", [])
            ranges = _whole(line, MOST_LINES) and line and _whole(above, line) and _whole(version) and version
            if ranges and _whole(horizon) and isinstance(pins, list) and all(map(_is_pin, pins)):
                held = frozenset((number, at) for number, at in pins)
                return BranchEntry(
                    line=line, parent_line=above, parent_version=version, horizon=horizon, pins=held
                )
    raise CorruptionError(f"the branch {name!r} is described as {raw!r}")


def merges_from_json(raw: object) -> dict[int, int]:
    """Check and take which version of which line was merged last; CorruptionError for anything else."""
    if not isinstance(raw, Mapping) or not all(
        key.isdigit() and key.isascii() and _whole(value) for key, value in raw.items()
    ):
        raise CorruptionError(f"the merges of a version are {raw!r}")
    return {int(key): value for key, value in raw.items()}


def _is_pin(raw: object) -> bool:
    match raw:
        case [line, version]:
            return _whole(line, MOST_LINES) and _whole(version)
    return False


def _whole(value: object, limit: int = _LIMIT) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit


def needed_versions(branches: Mapping[str, BranchEntry], line: int) -> frozenset[int]:
    """Versions of a line that branches need whatever expires: where they fork, and those being merged."""
    forks = {entry.parent_version for entry in branches.values() if entry.parent_line == line}
    pins = {at for entry in branches.values() for held, at in entry.pins if held == line}
    return frozenset(forks | pins)


def line_of(identity: int) -> int:
    """The line that gave out a row id or fragment id."""
    return identity // LINE_IDS


def require_room(before: int, after: int) -> None:
    """Raise UnsupportedError where a counter would leave the ids of its line."""
    if after > before and line_of(before) != line_of(after - 1):
        raise UnsupportedError(
            f"line {line_of(before)} has given out all of its {LINE_IDS:,} ids",
            fix="go on in a branch: it has ids of its own",
        )


def claim_line(store: Store, above: int, text: bytes) -> int:
    """Take the next free line number for good; nobody else ever gets it.

    Parameters
    ----------
    above
        The line of the table's main: lines are numbered from there (a clone goes on as a line of its source).
    text
        Says for people what the number was taken for; nothing depends on it.
    """
    taken = [number for info in store.list(LINES) if (number := line_number(info.path)) is not None]
    for number in range(max([above, *taken]) + 1, MOST_LINES):
        try:
            store.create(line_path(number), text)
        except AlreadyExistsError:
            continue
        return number
    raise UnsupportedError(
        f"{store.uri} has had {MOST_LINES:,} branches, the most a table can have",
        fix="copy it to a new table",
    )
