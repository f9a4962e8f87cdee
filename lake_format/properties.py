"""Table properties: the options a table remembers, each with its type and default, checked when set."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from lake_format.errors import InvalidInputError

__all__ = [
    "PROPERTIES",
    "age_property",
    "check_properties",
    "flag_property",
    "integer_property",
    "text_property",
    "with_layout",
]


@dataclass(frozen=True, slots=True)
class _Property:
    default: str
    check: Callable[[str], bool]
    rule: str


def _whole_number_from(least: int) -> Callable[[str], bool]:
    return lambda text: text.isdigit() and int(text) >= least


def _is_flag(text: str) -> bool:
    return text in ("true", "false")


_AGE = re.compile(r"^([0-9]{1,6})(min|h|d|w)$")
_UNITS = {"min": "minutes", "h": "hours", "d": "days", "w": "weeks"}

PROPERTIES: Mapping[str, _Property] = {
    "write.scalar-format": _Property(
        "auto",
        lambda text: text in ("auto", "vortex", "parquet"),
        "'auto' (by size), 'vortex' or 'parquet'",
    ),
    "write.layout": _Property("split", lambda text: text in ("split", "open"), "'split' or 'open'"),
    "write.fragment-rows": _Property("1048576", _whole_number_from(1), "a whole number of rows, at least 1"),
    "write.max-partitions": _Property(
        "10000", _whole_number_from(1), "a whole number of partitions, at least 1"
    ),
    "write.fragment-bytes": _Property(
        str(2 << 30), _whole_number_from(1 << 16), "a whole number of bytes, at least 65536"
    ),
    "write.isolation": _Property(
        "snapshot", lambda text: text in ("snapshot", "serializable"), "'snapshot' or 'serializable'"
    ),
    "write.index-on-append": _Property("false", _is_flag, "'true' or 'false'"),
    "maintain.compact": _Property("true", _is_flag, "'true' or 'false'"),
    "maintain.cluster": _Property("true", _is_flag, "'true' or 'false'"),
    "maintain.optimize-indexes": _Property("true", _is_flag, "'true' or 'false'"),
    "maintain.expire-older-than": _Property(
        "never",
        lambda text: text == "never" or _AGE.match(text) is not None,
        "'never', or an age such as '7d'",
    ),
    "maintain.keep-versions": _Property("1", _whole_number_from(1), "a whole number of versions, at least 1"),
    "maintain.collect-garbage": _Property("true", _is_flag, "'true' or 'false'"),
    "write.update-strategy": _Property(
        "auto",
        lambda text: text in ("auto", "rewrite", "patch", "move"),
        "'auto' (by cost), 'rewrite', 'patch' or 'move'",
    ),
}
"""Every property a table may have. Those starting with ``user.`` are free text for applications."""


def check_properties(properties: Mapping[str, object] | None) -> dict[str, str]:
    """The properties as stored text; InvalidInputError for an unknown name or a value out of range."""
    checked: dict[str, str] = {}
    for name, value in (properties or {}).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not name.startswith("user."):
            known = PROPERTIES.get(name)
            if known is None:
                near = difflib.get_close_matches(name, PROPERTIES, n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"known are {', '.join(PROPERTIES)}, and user.*"
                )
                raise InvalidInputError(f"unknown table property {name!r}", fix=hint)
            if not known.check(text):
                raise InvalidInputError(
                    f"table property {name!r} is {text!r}", fix=f"it must be {known.rule}"
                )
        checked[name] = text
    return checked


def with_layout(properties: Mapping[str, object] | None, layout: str | None) -> Mapping[str, object]:
    """The properties with a layout that was named beside them."""
    given = dict(properties or {})
    if layout is None:
        return given
    if given.setdefault("write.layout", layout) != layout:
        raise InvalidInputError(
            f"the layout is {layout!r}, and the property 'write.layout' is {given['write.layout']!r}",
            fix="give one of them",
        )
    return given


def text_property(properties: Mapping[str, str], name: str) -> str:
    """The property's value, or its default."""
    return properties.get(name, PROPERTIES[name].default)


def age_property(properties: Mapping[str, str], name: str) -> timedelta | None:
    """The property's value, or its default, as a span of time; None for ``never``."""
    found = _AGE.match(text_property(properties, name))
    return timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None


def flag_property(properties: Mapping[str, str], name: str) -> bool:
    """Whether the property, or its default, is ``true``."""
    return text_property(properties, name) == "true"


def integer_property(properties: Mapping[str, str], name: str) -> int:
    """The property's value as a whole number, or its default."""
    return int(text_property(properties, name))
