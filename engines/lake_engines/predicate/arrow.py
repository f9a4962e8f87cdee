"""pyarrow expressions as predicates.

pyarrow shows no structure of an expression, but serialises it losslessly: a record batch of literals whose
schema metadata lists the nodes in prefix order (Arrow C++, `compute/expression.cc`, `Serialize`). It is read
through the Arrow C data interface, because pyarrow's own metadata mapping drops repeated keys. What the tree
can say is translated; the rest stays with Arrow, which evaluates it exactly. Nothing is unpickled.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate.tree import (
    And,
    Column,
    Comparison,
    Expression,
    In,
    IsNan,
    IsNull,
    Like,
    Literal,
    Not,
    Opaque,
    Operator,
    Or,
    TextMatch,
)
from lake_format.errors import InvalidInputError

__all__ = ["from_arrow", "runner"]


_Rebuild = Callable[[pa.Buffer], pc.Expression]
_LONGEST = 1 << 14
"""Bytes of an expression that is worth remembering: engines ask with the same filter again and again."""


class _UntranslatedError(Exception):
    """The tree has no node with exactly this meaning."""


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def from_arrow(expression: pc.Expression) -> Opaque:
    """Take a pyarrow expression as a predicate; it keeps Arrow's meaning.

    Raises
    ------
    InvalidInputError
        If the expression names columns by position, which has no meaning across column groups.
    """
    try:
        rebuild, (buffer,) = expression.__reduce__()
        return _remembered(rebuild, bytes(buffer)) if buffer.size <= _LONGEST else _read(expression, buffer)
    except pa.ArrowNotImplementedError as error:
        raise InvalidInputError(
            f"the expression {expression} cannot be used as a filter: {error}",
            fix="name columns by name, not by position",
        ) from error


@lru_cache(maxsize=256)
def _remembered(rebuild: _Rebuild, serialized: bytes) -> Opaque:
    buffer = pa.py_buffer(serialized)
    return _read(rebuild(buffer), buffer)


def _read(expression: pc.Expression, serialized: pa.Buffer) -> Opaque:
    """The predicate of an expression, by what it is serialised to."""
    reader = pa.ipc.open_file(serialized)
    root = _read_nodes(reader.schema, reader.get_batch(0))
    translated, complete = [], True
    for conjunct in _split(root):
        try:
            translated.append(_translate(conjunct))
        except (_UntranslatedError, RecursionError):  # very deep trees are left to Arrow
            complete = False
    paths = tuple(dict.fromkeys(_paths(root)))
    return Opaque(expression, paths, tuple(translated), complete, str(expression))


class _ArrowSchema(ctypes.Structure):
    """The head of `struct ArrowSchema` (Arrow C data interface), as far as it is read here."""

    _fields_ = (("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_void_p))


def _metadata_pairs(schema: pa.Schema) -> Iterator[tuple[str, str]]:
    """Yield all metadata entries in order, repeated keys included (layout: Arrow C data interface)."""
    capsule = schema.__arrow_c_schema__()
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer_of(capsule, b"arrow_schema")
    position = _ArrowSchema.from_address(address).metadata
    if not position:
        return

    def integer() -> int:
        nonlocal position
        number = ctypes.c_int32.from_address(position).value
        position += 4
        return number

    def text() -> str:
        nonlocal position
        length = integer()
        raw = ctypes.string_at(position, length)
        position += length
        return raw.decode()

    for _ in range(integer()):
        yield text(), text()


def _read_nodes(schema: pa.Schema, literals: pa.RecordBatch) -> Any:
    """Rebuild the tree of calls, columns and literals from the serialised list."""
    pairs = iter(list(_metadata_pairs(schema)))
    stack: list[tuple[str, list[Any], dict[str, Any]]] = [("", [], {})]
    for key, value in pairs:
        match key:
            case "literal":
                stack[-1][1].append(Literal(literals.column(int(value))[0]))
            case "field_ref":
                stack[-1][1].append(Column((value,)))
            case "nested_field_ref":
                stack[-1][1].append(Column(tuple(next(pairs)[1] for _ in range(int(value)))))
            case "call":
                stack.append((value, [], {}))
            case "options":
                struct = literals.column(int(value))[0]
                stack[-1][2].update({name: struct[name] for name in struct})
            case "end":
                name, arguments, options = stack.pop()
                stack[-1][1].append(_Call(name, tuple(arguments), options))
    return stack[0][1][0]


def _paths(node: Any) -> Iterator[tuple[str, ...]]:
    pending = [node]
    while pending:
        each = pending.pop()
        if isinstance(each, Column):
            yield each.path
        elif isinstance(each, _Call):
            pending.extend(reversed(each.arguments))


def _split(node: Any) -> Iterator[Any]:
    pending = [node]
    while pending:
        each = pending.pop()
        if isinstance(each, _Call) and each.name == "and_kleene":
            pending.extend(reversed(each.arguments))
        else:
            yield each


_COMPARISONS = {
    "equal": Operator.EQUAL,
    "not_equal": Operator.NOT_EQUAL,
    "less": Operator.LESS,
    "less_equal": Operator.LESS_EQUAL,
    "greater": Operator.GREATER,
    "greater_equal": Operator.GREATER_EQUAL,
}


def _translate(node: Any) -> Expression:
    if not isinstance(node, _Call):
        return _value(node)
    handler = _HANDLERS.get(node.name)
    return handler(node) if handler else _refuse()


def _refuse() -> NoReturn:
    raise _UntranslatedError


def _value(node: Any) -> Expression:
    """Columns and literals only: Arrow's functions and casts have overflow rules of their own."""
    return node if isinstance(node, Column | Literal) else _refuse()


def _operands(node: _Call) -> tuple[Expression, ...]:
    return tuple(_value(argument) for argument in node.arguments)


def _comparison(node: _Call) -> Expression:
    left, right = _operands(node)
    return Comparison(_COMPARISONS[node.name], left, right)


def _disjunction(node: _Call) -> Expression:
    terms: list[Expression] = []
    pending = list(node.arguments)
    while pending:
        each = pending.pop(0)
        if isinstance(each, _Call) and each.name == "or_kleene":
            pending[:0] = each.arguments
        else:
            terms.append(_translate(each))
    return Or(tuple(terms))


def _conjunction(node: _Call) -> Expression:
    return And(tuple(_translate(term) for term in _split(node)))


def _is_null(node: _Call) -> Expression:
    (value,) = _operands(node)
    if node.options["nan_is_null"].as_py():
        return Or((IsNull(value), IsNan(value)))
    return IsNull(value)


def _is_valid(node: _Call) -> Expression:
    return Not(IsNull(*_operands(node)))


def _is_nan(node: _Call) -> Expression:
    return IsNan(*_operands(node))


_MATCH_NULL = 0  # SetLookupOptions.NullMatchingBehavior.MATCH


def _is_in(node: _Call) -> Expression:
    """Arrow's ``is_in`` is never NULL: NULL is a member if the set holds it, and else is none."""
    (value,) = _operands(node)
    options = node.options.get("value_set")
    if options is None or node.options["null_matching_behavior"].as_py() != _MATCH_NULL:
        _refuse()
    values = options.values
    found = In(value, tuple(Literal(each) for each in values if each.is_valid))
    if values.null_count:
        return Or((IsNull(value), found))
    return And((Not(IsNull(value)), found))


def _text_test(node: _Call) -> Expression:
    (value,) = _operands(node)
    pattern = node.options["pattern"].as_py()
    if node.options["ignore_case"].as_py() or isinstance(pattern, bytes):
        _refuse()
    match node.name:
        case "starts_with" | "ends_with":
            return TextMatch("starts_with" if node.name == "starts_with" else "ends_with", value, pattern)
        case "match_substring":
            return TextMatch("contains", value, pattern)
        case _:
            return Like(value, pattern, "\\")


def _invert(node: _Call) -> Expression:
    return Not(_translate(node.arguments[0]))


_HANDLERS: dict[str, Callable[[_Call], Expression]] = {
    **dict.fromkeys(_COMPARISONS, _comparison),
    **dict.fromkeys(("starts_with", "ends_with", "match_substring", "match_like"), _text_test),
    "and_kleene": _conjunction,
    "or_kleene": _disjunction,
    "invert": _invert,
    "is_null": _is_null,
    "is_valid": _is_valid,
    "is_nan": _is_nan,
    "is_in": _is_in,
}


def runner(node: Opaque, schema: pa.Schema) -> Callable[[pa.RecordBatch], Any]:
    """Return a function that evaluates the expression on a batch, by Arrow.

    Raises
    ------
    InvalidInputError
        If the expression does not fit the schema.
    """
    from pyarrow import acero  # noqa: PLC0415 - loaded only where Arrow evaluates

    names = list(dict.fromkeys(path[0] for path in node.paths))
    project = acero.Declaration("project", acero.ProjectNodeOptions([node.source], ["passes"]))

    def run(batch: pa.RecordBatch) -> Any:
        # A column that the expression does not read still gives a constant expression its number of rows.
        table = pa.Table.from_batches([batch.select(names) if names else batch])
        source = acero.Declaration("table_source", acero.TableSourceNodeOptions(table))
        try:
            plan = acero.Declaration.from_sequence([source, project])
            passes = plan.to_table(use_threads=False).column("passes").combine_chunks()
        except (pa.ArrowException, ValueError) as error:
            raise InvalidInputError(f"Arrow cannot evaluate the filter {node}: {error}") from error
        if not pa.types.is_boolean(passes.type):
            raise InvalidInputError(f"the filter {node} has type {passes.type}, not boolean")
        return passes if isinstance(passes, pa.Array) else passes.chunk(0)

    # One row of NULLs: some kernels check types only when they meet a row.
    needed = [schema.field(name) for name in names] or [pa.field("none", pa.null())]
    run(
        pa.RecordBatch.from_arrays(
            [pa.nulls(1, field.type) for field in needed], [field.name for field in needed]
        )
    )
    return run
