"""Schemas as short text: ``id int64 not null, vec vector(128), tags list<string>`` and back.

The language of ``lake create --schema`` and of ``lake describe``. Pure functions; types that tables refuse are
refused later, by the table.
"""

from __future__ import annotations

import difflib
import re

import pyarrow as pa

from lake_format.errors import InvalidInputError

__all__ = ["parse_schema", "schema_text", "type_text"]

_TOKEN = re.compile(r"""\s*(?:"((?:[^"]|"")+)"|([A-Za-z_]\w*|\d+)|([(),<>:-]))""")
_SIMPLE: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "string": pa.string(),
    "large_string": pa.large_string(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "date32": pa.date32(),
    "date64": pa.date64(),
}
_ALIASES = {
    "boolean": "bool",
    "int": "int64",
    "integer": "int64",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
    "text": "string",
    "varchar": "string",
    "str": "string",
    "bytes": "binary",
    "blob": "binary",
    "date": "date32",
}
_PARAMETRIC = ("vector", "decimal", "timestamp", "time", "duration", "list", "struct", "map", "dictionary")
_UNITS = ("s", "ms", "us", "ns")
_EXAMPLE = 'write it like "id int64, title string, vec vector(128)"'


def parse_schema(text: str) -> pa.Schema:
    """The schema that a text describes.

    Parameters
    ----------
    text
        Comma-separated columns, each ``name type [not null]``; a name with blanks or signs goes in double quotes.

    Raises
    ------
    InvalidInputError
        The text cannot be read; the message says at which word.
    """
    words = _Words(text)
    fields = [_field(words)]
    while words.take(","):
        fields.append(_field(words))
    words.expect_end()
    return pa.schema(fields)


def type_text(data_type: pa.DataType) -> str:
    """A type as :func:`parse_schema` reads it; other types as Arrow prints them."""
    types = pa.types
    if types.is_fixed_size_list(data_type) and data_type.value_type in (pa.float32(), pa.float16()):
        half = ", float16" if data_type.value_type == pa.float16() else ""
        return f"vector({data_type.list_size}{half})"
    if types.is_list(data_type):
        return f"list<{type_text(data_type.value_type)}>"
    if types.is_struct(data_type):
        children = (data_type.field(index) for index in range(data_type.num_fields))
        return f"struct<{', '.join(map(_field_text, children))}>"
    if types.is_map(data_type):
        return f"map<{type_text(data_type.key_type)}, {type_text(data_type.item_type)}>"
    if types.is_dictionary(data_type) and data_type.index_type == pa.int32() and not data_type.ordered:
        return f"dictionary<{type_text(data_type.value_type)}>"
    if types.is_timestamp(data_type):
        return f"timestamp({data_type.unit}{f', {_quoted(data_type.tz)}' if data_type.tz else ''})"
    if types.is_decimal128(data_type):
        return f"decimal({data_type.precision}, {data_type.scale})"
    if types.is_fixed_size_binary(data_type) and not types.is_decimal(data_type):
        return f"binary({data_type.byte_width})"
    if types.is_time(data_type) or types.is_duration(data_type):
        return f"{'time' if types.is_time(data_type) else 'duration'}({data_type.unit})"
    return next((name for name, known in _SIMPLE.items() if known == data_type), str(data_type))


def schema_text(schema: pa.Schema) -> str:
    """A whole schema as :func:`parse_schema` reads it."""
    return ", ".join(map(_field_text, schema))


def _field_text(field: pa.Field) -> str:
    return f"{_quoted(field.name)} {type_text(field.type)}{'' if field.nullable else ' not null'}"


def _quoted(name: str) -> str:
    if re.fullmatch(r"[A-Za-z_]\w*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


class _Words:
    """The words of a schema text, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._tokens: list[tuple[str, bool]] = []  # the word, and whether it stood in quotes
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                raise InvalidInputError(
                    f"the schema has an unexpected {text[position:].strip()[0]!r}", fix=_EXAMPLE
                )
            quoted = match.group(1)
            word = quoted.replace('""', '"') if quoted is not None else match.group(2) or match.group(3)
            self._tokens.append((word, quoted is not None))
            position = match.end()
        self._next = 0

    def peek(self) -> str:
        """The next word, or "" at the end."""
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def take(self, sign: str) -> bool:
        """Whether the next word is this one, unquoted; it is passed over if so."""
        if self._next < len(self._tokens) and self._tokens[self._next] == (sign, False):
            self._next += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        """Pass over this word, which must come next."""
        if not self.take(sign):
            raise self.error(f"expected {sign!r}")

    def word(self, what: str) -> str:
        """The next word, which must be a name or a number."""
        if self._next >= len(self._tokens):
            raise self.error(f"expected {what}")
        word, quoted = self._tokens[self._next]
        if not quoted and not re.match(r"\w", word):
            raise self.error(f"expected {what}")
        self._next += 1
        return word

    def number(self, what: str) -> int:
        """The next word as a whole number."""
        minus = self.take("-")
        word = self.word(what)
        if not word.isdigit():
            raise InvalidInputError(f"the schema needs {what}, not {word!r}", fix=_EXAMPLE)
        return -int(word) if minus else int(word)

    def expect_end(self) -> None:
        """Fail if words are left."""
        if self._next < len(self._tokens):
            raise self.error("expected ',' or the end")

    def error(self, wanted: str) -> InvalidInputError:
        """What was expected, and what is there instead."""
        found = repr(self.peek()) if self._next < len(self._tokens) else "its end"
        return InvalidInputError(f"the schema text: {wanted}, found {found}", fix=_EXAMPLE)


def _field(words: _Words) -> pa.Field:
    name = words.word("a column name")
    words.take(":")
    data_type = _type(words)
    nullable = True
    if words.peek().lower() == "not":
        words.word("'not null'")
        if words.word("'null' after 'not'").lower() != "null":
            raise InvalidInputError(f"column {name!r}: expected 'null' after 'not'", fix=_EXAMPLE)
        nullable = False
    return pa.field(name, data_type, nullable)


def _type(words: _Words) -> pa.DataType:
    given = words.word("a type")
    name = given.lower()
    name = _ALIASES.get(name, name)
    try:
        if name == "binary" and words.take("("):
            width = words.number("the number of bytes")
            words.expect(")")
            return pa.binary(width)
        if name in _SIMPLE:
            return _SIMPLE[name]
        if name in ("list", "struct", "map", "dictionary"):
            return _nested(name, words)
        if name in _PARAMETRIC:
            return _with_arguments(name, words)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"type {given!r} of the schema: {error}", fix=_EXAMPLE) from error
    near = difflib.get_close_matches(name, [*_SIMPLE, *_ALIASES, *_PARAMETRIC], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"types are {', '.join([*_SIMPLE, *_PARAMETRIC])}"
    raise InvalidInputError(f"unknown type {given!r} in the schema", fix=hint)


def _nested(name: str, words: _Words) -> pa.DataType:
    words.expect("<")
    if name == "struct":
        fields = [_field(words)]
        while words.take(","):
            fields.append(_field(words))
        made = pa.struct(fields)
    elif name == "map":
        key = _type(words)
        words.expect(",")
        made = pa.map_(key, _type(words))
    else:
        inner = _type(words)
        made = pa.list_(inner) if name == "list" else pa.dictionary(pa.int32(), inner)
    words.expect(">")
    return made


def _with_arguments(name: str, words: _Words) -> pa.DataType:
    if name in ("timestamp", "time", "duration"):
        return _with_unit(name, words)
    words.expect("(")
    if name == "vector":
        dimension = words.number("the vector's dimension")
        value = words.word("float32 or float16").lower() if words.take(",") else "float32"
        if value not in ("float32", "float16"):
            raise InvalidInputError(f"vectors are of float32 or float16, not {value!r}", fix=_EXAMPLE)
        made = pa.list_(_SIMPLE[value], dimension)
    else:
        precision = words.number("the decimal's precision")
        made = pa.decimal128(precision, words.number("the decimal's scale") if words.take(",") else 0)
    words.expect(")")
    return made


def _with_unit(name: str, words: _Words) -> pa.DataType:
    unit, zone = "us", None
    if words.take("("):
        unit = words.word("a unit").lower()
        if words.take(","):
            zone = words.word('a time zone such as UTC or "Europe/Berlin"')
        words.expect(")")
    if unit not in _UNITS:
        raise InvalidInputError(f"{name} has the unit {unit!r}", fix=f"units are {', '.join(_UNITS)}")
    if name == "timestamp":
        return pa.timestamp(unit, zone)
    if zone is not None:
        raise InvalidInputError(f"{name} takes no time zone", fix="timestamp does")
    if name == "duration":
        return pa.duration(unit)
    return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
