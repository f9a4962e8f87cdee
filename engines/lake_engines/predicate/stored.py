"""Expressions that give columns their values: as users write them, and as they are kept with the column.

What a stored expression is and may be is `lake_format.computed_columns`; spec/evolution.md, EVO-12.
"""

from __future__ import annotations

import re

import pyarrow as pa

from lake_engines.predicate import parse_sql
from lake_engines.predicate.bind import field_of, value_of
from lake_engines.predicate.tree import Column, with_columns
from lake_engines.predicate.values import Value
from lake_format.computed_columns import StoredExpression
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.schema import ROW_ID, ROW_ID_FIELD

__all__ = ["bind_stored", "bind_written", "stored_expression"]

_PLACE = re.compile(r"""'(?:[^']|'')*'|"\$(\d+)\"""")


def stored_expression(text: str, schema: pa.Schema) -> StoredExpression:
    """An SQL expression over the columns of a table's schema, in the form in which it is kept.

    Raises
    ------
    InvalidInputError
        The text is no expression over these columns.
    UnsupportedError
        It contains what expressions do not support, or what one that is kept cannot say.
    """
    tree = parse_sql(text)
    inputs: list[int] = []

    def numbered(column: Column) -> Column:
        identity = _resolved(column, schema)[0]
        if identity not in inputs:
            inputs.append(identity)
        return Column((f"${inputs.index(identity) + 1}",))

    try:
        kept = with_columns(tree, numbered)
        found = StoredExpression(_PLACE.sub(_unquoted, str(kept)), tuple(inputs))
        meant = with_columns(tree, lambda column: Column(_resolved(column, schema)[1]))
        if parse_sql(found.text(schema)) != meant:
            raise UnsupportedError(f"{text!r} cannot be kept with a column", fix="write it in another way")
    except RecursionError as error:
        raise InvalidInputError("the expression is nested too deeply", fix="flatten it") from error
    return found


def _unquoted(token: re.Match[str]) -> str:
    return token[0] if token[1] is None else f"${token[1]}"


def _resolved(column: Column, schema: pa.Schema) -> tuple[int, tuple[str, ...]]:
    """The id and the exact path of the field that a column means."""
    found = field_of(column, schema.append(ROW_ID_FIELD))
    if found.path == (ROW_ID,) or found.field_id is None:
        raise InvalidInputError(
            f"an expression that is kept with a column cannot read {column}",
            fix="row ids are given out when rows are committed; use columns of the table",
        )
    return found.field_id, found.path


def bind_written(text: str, schema: pa.Schema, name: str) -> Value:
    """An SQL expression of a user, ready to be computed from rows of a schema.

    Parameters
    ----------
    name
        The column that it gives values to, for errors.

    Raises
    ------
    InvalidInputError, UnsupportedError
        It is no expression over the schema; the message names the column and the expression.
    """
    try:
        return value_of(parse_sql(text), schema)
    except (InvalidInputError, UnsupportedError) as error:
        raise type(error)(f"column {name!r} cannot be given {text!r}: {error.what}", fix=error.fix) from error


def bind_stored(expression: StoredExpression, schema: pa.Schema, name: str) -> Value:
    """A stored expression, ready to be computed from rows of a schema.

    Parameters
    ----------
    name
        The column it belongs to, for errors.

    Raises
    ------
    CorruptionError
        It is no expression over the schema.
    UnsupportedError
        It uses what this release does not know.
    """
    text = expression.text(schema)
    try:
        return value_of(parse_sql(text), schema)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"column {name!r} is computed by {text!r}, which this release cannot evaluate: {error.what}",
            fix="write with the release that added the column, or drop the column",
        ) from error
    except InvalidInputError as error:
        raise CorruptionError(
            f"column {name!r} is said to be computed by {text!r}, which is no expression over the table's columns: "
            f"{error.what}"
        ) from error
