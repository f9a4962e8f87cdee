"""Functions of text, as DuckDB has them: joined, cut, trimmed, replaced, in another case.

Positions are counted in code points. What says where and what to cut, trim or replace is a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.functions import cast, is_null, is_text, mistyped
from lake_engines.predicate.values import Computed, Constant, Value
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["TEXT_FUNCTIONS", "join_texts", "text_function"]

_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
"""What is trimmed where nothing is named: Unicode's space separators, so neither tabs nor line ends."""

_TRIMS: dict[str, Callable[..., Any]] = {"trim": pc.utf8_trim, "ltrim": pc.utf8_ltrim, "rtrim": pc.utf8_rtrim}
_CASES: dict[str, Callable[..., Any]] = {"lower": pc.utf8_lower, "upper": pc.utf8_upper}
_COUNTS = {
    "lower": (1, 1),
    "upper": (1, 1),
    "length": (1, 1),
    "substr": (2, 3),
    "left": (2, 2),
    "right": (2, 2),
}
_COUNTS |= {"trim": (1, 2), "ltrim": (1, 2), "rtrim": (1, 2), "replace": (3, 3)}

TEXT_FUNCTIONS = frozenset(_COUNTS)
"""The functions of :func:`text_function`."""


def text_function(name: str, arguments: tuple[Value, ...]) -> Value:
    """Apply one of :data:`TEXT_FUNCTIONS`; NULL where any argument is NULL."""
    least, most = _COUNTS[name]
    if not least <= len(arguments) <= most:
        wanted = str(least) if least == most else f"{least} or {most}"
        raise InvalidInputError(f"{name}() takes {wanted} arguments, not {len(arguments)}")
    if any(map(is_null, arguments)):
        return Constant(pa.scalar(None))
    value = arguments[0]
    if not is_text(value.dtype):
        raise mistyped(f"{name}()", value)
    given = [_constant(name, each) for each in arguments[1:]]
    if name == "length":
        kernel = lambda array: pc.utf8_length(array).cast(pa.int64())  # noqa: E731 - short beside its type
        return Computed(kernel, (value,), pa.int64(), (0, 2**63 - 1))
    return Computed(_kernel(name, given), (value,), value.dtype)


def _constant(name: str, value: Value) -> Any:
    if not isinstance(value, Constant):
        raise UnsupportedError(f"{name}() takes constants after its first argument, not {value}")
    return value.scalar.as_py()


def _kernel(name: str, given: list[Any]) -> Callable[[Any], Any]:
    if name in _CASES:
        return _CASES[name]
    if name in _SLICES:
        start, stop = _SLICES[name](*(_whole(name, each) for each in given))
        return lambda array: pc.utf8_slice_codeunits(array, start, stop)
    texts = [_text(name, each) for each in given]
    if name in _TRIMS:
        trim, characters = _TRIMS[name], texts[0] if texts else _SPACES
        return lambda array: trim(array, characters)
    pattern, replacement = texts
    if not pattern:
        return lambda array: array
    return lambda array: pc.replace_substring(array, pattern, replacement)


def _whole(name: str, given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not -(2**31) < given < 2**31:
        raise InvalidInputError(f"{name}() takes whole numbers of 32 bits as positions, not {given!r}")
    return given


def _text(name: str, given: object) -> str:
    if not isinstance(given, str):
        raise InvalidInputError(f"{name}() takes text after its first argument, not {given!r}")
    return given


def _substring(start: int, length: int | None = None) -> tuple[int, int | None]:
    """The slice, as Python counts: ``substr`` counts from 1, or where it is negative from the end."""
    if start < 0:
        if length is None:
            return start, None
        low, high = sorted((start, start + length))
        return low, None if high >= 0 else high
    first = start - 1  # 0 is the place before the first
    if length is None:
        return max(first, 0), None
    low, high = sorted((first, first + length))
    return max(low, 0), max(high, 0)


def _left(count: int) -> tuple[int, int | None]:
    return 0, count


def _right(count: int) -> tuple[int, int | None]:
    return (-count, None) if count > 0 else (-count if count else 2**31 - 1, None)


_SLICES: dict[str, Callable[..., tuple[int, int | None]]] = {
    "substr": _substring,
    "left": _left,
    "right": _right,
}


def join_texts(name: str, arguments: tuple[Value, ...]) -> Value:
    """``a || b``, NULL where one is; ``concat(a, b, …)``, in which NULL is the empty text.

    Whole numbers and booleans are taken as their text; byte strings are joined with byte strings.
    """
    skips_null = name == "concat"
    known = tuple(each for each in arguments if not is_null(each))
    if not arguments:
        raise InvalidInputError("concat() takes one argument or more")
    if not known or (len(known) < len(arguments) and not skips_null):
        return Constant(pa.scalar("" if skips_null else None, pa.string()))
    parts = _alike(name, known)
    dtype = parts[0].dtype
    separator = pa.scalar("" if is_text(dtype) else b"", dtype)
    handling = (
        {"null_handling": "replace", "null_replacement": ""} if skips_null else {"null_handling": "emit_null"}
    )

    def joined(*columns: Any) -> Any:
        return pc.binary_join_element_wise(*columns, separator, **handling)

    return Computed(joined, parts, dtype)


def _alike(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    binary, is_ = {pa.binary(), pa.large_binary()}, pa.types
    if all(each.dtype in binary for each in values):
        wide: pa.DataType = (
            pa.large_binary() if any(each.dtype == pa.large_binary() for each in values) else pa.binary()
        )
        return tuple(cast(each, wide) for each in values)
    for each in values:
        if not (is_text(each.dtype) or is_.is_integer(each.dtype) or is_.is_boolean(each.dtype)):
            raise mistyped(name, *values, fix="it joins text, whole numbers and booleans, or byte strings")
    wide = pa.large_string() if any(is_.is_large_string(each.dtype) for each in values) else pa.string()
    return tuple(cast(each, wide) for each in values)
