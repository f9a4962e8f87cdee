"""Functions by their names: which there are, and who builds each of them."""

from __future__ import annotations

import pyarrow as pa

from lake_engines.predicate.choices import coalesce, extreme
from lake_engines.predicate.functions import (
    ARITHMETIC,
    PARTS,
    ROUNDINGS,
    arithmetic,
    is_null,
    magnitude,
    part,
    rounded,
    truncated,
)
from lake_engines.predicate.texts import TEXT_FUNCTIONS, join_texts, text_function
from lake_engines.predicate.values import Constant, Value
from lake_format.errors import InvalidInputError, UnsupportedError

__all__ = ["build", "known_functions"]

_UNARY = (
    dict.fromkeys(("abs", "negate"), magnitude)
    | dict.fromkeys(PARTS, part)
    | dict.fromkeys(ROUNDINGS, rounded)
)


def build(name: str, arguments: tuple[Value, ...]) -> Value:
    """Apply the function (or arithmetic operator) ``name``.

    Raises
    ------
    UnsupportedError
        If there is no such function here, or its result could overflow.
    InvalidInputError
        If the number or the types of the arguments do not fit.
    """
    if name == "coalesce" and arguments:
        return coalesce(arguments)
    if name in {"greatest", "least"}:
        return extreme(name, arguments)
    if name in {"||", "concat"}:
        return join_texts(name, arguments)
    if name in TEXT_FUNCTIONS:
        return text_function(name, arguments)
    missing = any(map(is_null, arguments))
    if name in ARITHMETIC and len(arguments) == 2:
        return Constant(pa.scalar(None)) if missing else arithmetic(name, *arguments)
    if name == "date_trunc" and len(arguments) == 2:
        return Constant(pa.scalar(None)) if missing else truncated(*arguments)
    if name == "round" and len(arguments) == 2:
        return Constant(pa.scalar(None)) if missing else rounded(name, *arguments)
    if name not in _UNARY:
        raise UnsupportedError(f"the function {name}() is not supported", fix=f"use {known_functions()}")
    if len(arguments) != 1:
        raise InvalidInputError(f"{name}() takes one argument, not {len(arguments)}")
    return Constant(pa.scalar(None)) if missing else _UNARY[name](name, arguments[0])


def known_functions() -> str:
    """List the functions for error messages."""
    named = sorted({*TEXT_FUNCTIONS, *_UNARY} - {"negate"})
    return ", ".join(
        [*named, "coalesce, concat, date_trunc, greatest, least, nullif, starts_with, ends_with, contains"]
    )
