"""A table's schema: Arrow fields with permanent field ids, checked when a user hands one in.

The id of a field lives in its Arrow metadata under ``PARQUET:field_id`` (the key Parquet writers already
understand), on every field, nested ones included. Files are matched to the schema by id, never by name.
This module knows types and ids; it must not know files or storage.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from lake_format.errors import CorruptionError, InvalidInputError

__all__ = [
    "COMPUTED_KEY",
    "DEFAULT_KEY",
    "DISTANCE",
    "DISTANCE_FIELD",
    "FIELD_ID_KEY",
    "MAX_VECTOR_DIMENSION",
    "ROW_ID",
    "ROW_ID_FIELD",
    "ROW_ID_STATISTICS",
    "assign_field_ids",
    "check_column_type",
    "check_names",
    "check_user_schema",
    "child_fields",
    "field_by_id",
    "field_id",
    "is_computed",
    "is_vector",
    "require_column",
    "schema_from_bytes",
    "schema_to_bytes",
    "select_columns",
    "walk_fields",
    "with_child_fields",
    "without_field_ids",
]

FIELD_ID_KEY = b"PARQUET:field_id"
DEFAULT_KEY = b"lake.default"
"""Where a column's declared default lies (:mod:`lake_format.column_defaults`)."""
COMPUTED_KEY = b"lake.expression"
"""Where the expression of a computed column lies (:mod:`lake_format.computed_columns`)."""
ROW_ID = "_row_id"
DISTANCE = "_distance"
ROW_ID_FIELD = pa.field(ROW_ID, pa.int64(), False)
DISTANCE_FIELD = pa.field(DISTANCE, pa.float32(), False)
ROW_ID_STATISTICS = -1
"""What row ids go by where statistics are asked for by field id; no field has it."""
RESERVED_NAMES = frozenset({ROW_ID, DISTANCE, "_knn"})
VECTOR_VALUE_TYPES = (pa.float32(), pa.float16())
MAX_VECTOR_DIMENSION = 1 << 16


def is_vector(data_type: pa.DataType) -> bool:
    """Whether a column of this type is a vector column: a fixed-size list of float32 or float16."""
    return bool(pa.types.is_fixed_size_list(data_type) and data_type.value_type in VECTOR_VALUE_TYPES)


def is_computed(field: pa.Field) -> bool:
    """Whether a top-level column of a table is computed from others."""
    return COMPUTED_KEY in (field.metadata or {})


def field_id(field: pa.Field) -> int:
    """The permanent id of a field of a table schema; CorruptionError where there is none."""
    raw = (field.metadata or {}).get(FIELD_ID_KEY)
    if raw is None or not raw.isdigit():
        raise CorruptionError(f"field {field.name!r} of a stored schema carries no field id")
    return int(raw)


def field_by_id(schema: pa.Schema, wanted: int) -> pa.Field | None:
    """The top-level field with this id, or None."""
    return next((field for field in schema if field_id(field) == wanted), None)


def child_fields(data_type: pa.DataType) -> list[pa.Field]:
    """The fields inside a type: a struct's members, a map's key and value, a list's element; none elsewhere."""
    if pa.types.is_struct(data_type):
        return [data_type.field(index) for index in range(data_type.num_fields)]
    if pa.types.is_map(data_type):
        return [data_type.key_field, data_type.item_field]
    if _is_list(data_type):
        return [data_type.value_field]
    return []


_LIST_KINDS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _is_list(data_type: pa.DataType) -> bool:
    return any(check(data_type) for check in _LIST_KINDS)


def with_child_fields(data_type: pa.DataType, children: list[pa.Field]) -> pa.DataType:
    """The same kind of nested type over other children."""
    if pa.types.is_struct(data_type):
        return pa.struct(children)
    if pa.types.is_map(data_type):
        return pa.map_(children[0], children[1], keys_sorted=data_type.keys_sorted)
    if pa.types.is_fixed_size_list(data_type):
        return pa.list_(children[0], data_type.list_size)
    if pa.types.is_large_list(data_type):
        return pa.large_list(children[0])
    if pa.types.is_list_view(data_type):
        return pa.list_view(children[0])
    if pa.types.is_large_list_view(data_type):
        return pa.large_list_view(children[0])
    if pa.types.is_list(data_type):
        return pa.list_(children[0])
    return data_type


def walk_fields(fields: Iterable[pa.Field]) -> Iterator[pa.Field]:
    """Every field, depth first, a parent before its children."""
    for field in fields:
        yield field
        yield from walk_fields(child_fields(field.type))


def assign_field_ids(schema: pa.Schema, next_field_id: int) -> tuple[pa.Schema, int]:
    """The schema with a fresh id on every field, nested ones included, and the next unused id."""
    counter = next_field_id

    def number(field: pa.Field) -> pa.Field:
        nonlocal counter
        metadata = {**(field.metadata or {}), FIELD_ID_KEY: str(counter).encode()}
        counter += 1
        children = child_fields(field.type)
        data_type = (
            with_child_fields(field.type, [number(child) for child in children]) if children else field.type
        )
        return pa.field(field.name, data_type, field.nullable, metadata)

    return pa.schema([number(field) for field in schema], metadata=schema.metadata), counter


def without_field_ids(schema: pa.Schema) -> pa.Schema:
    """The schema as its user wrote it: the same names and types, without our ids, defaults and expressions."""
    own = (FIELD_ID_KEY, DEFAULT_KEY, COMPUTED_KEY)

    def strip(field: pa.Field) -> pa.Field:
        metadata = {key: value for key, value in (field.metadata or {}).items() if key not in own}
        children = child_fields(field.type)
        data_type = (
            with_child_fields(field.type, [strip(child) for child in children]) if children else field.type
        )
        return pa.field(field.name, data_type, field.nullable, metadata or None)

    return pa.schema([strip(field) for field in schema], metadata=schema.metadata)


def check_user_schema(schema: object) -> pa.Schema:
    """Check a schema handed in by a user and return it with stale field ids removed.

    Raises
    ------
    InvalidInputError
        Not an Arrow schema, no columns, reserved or duplicate names, or a type a table cannot hold.
    """
    if not isinstance(schema, pa.Schema):
        raise InvalidInputError(
            f"schema must be a pyarrow.Schema, not {type(schema).__name__}",
            fix='write pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), 128))])',
        )
    if len(schema) == 0:
        raise InvalidInputError("the schema has no columns", fix="give it at least one")
    check_names([field.name for field in schema], "the schema")
    for field in schema:
        check_column_type(field)
    return without_field_ids(schema)


def check_column_type(field: pa.Field) -> None:
    """Refuse a column whose type a table cannot hold, at any depth, naming the column."""
    _check_type(field)
    for inner in walk_fields(child_fields(field.type)):
        _check_type(inner)
        _check_inner_type(inner, field.name)


def check_names(names: list[str], where: str) -> None:
    """Refuse names that are empty, reserved, or do not differ in more than case."""
    seen: dict[str, str] = {}
    for name in names:
        if not name:
            raise InvalidInputError(f"{where} has a column without a name", fix="name it")
        if name in RESERVED_NAMES:
            raise InvalidInputError(f"column name {name!r} is reserved", fix="rename the column")
        other = seen.setdefault(name.casefold(), name)
        if other != name or names.count(name) > 1:
            raise InvalidInputError(
                f"{where} has the columns {other!r} and {name!r}",
                fix="names must differ in more than case, as SQL engines ignore it",
            )


def _check_type(field: pa.Field) -> None:
    data_type = field.type
    if isinstance(data_type, pa.BaseExtensionType):
        raise InvalidInputError(
            f"column {field.name!r} has the extension type {data_type}",
            fix=f"store its storage type {data_type.storage_type} instead",
        )
    if (
        pa.types.is_union(data_type)
        or pa.types.is_run_end_encoded(data_type)
        or pa.types.is_interval(data_type)
    ):
        raise InvalidInputError(f"column {field.name!r} has the type {data_type}, which tables cannot hold")
    if pa.types.is_list_view(data_type) or pa.types.is_large_list_view(data_type):
        raise InvalidInputError(
            f"column {field.name!r} has the type {data_type}, which tables cannot hold",
            fix=f"make it a list of {data_type.value_type}",
        )
    if pa.types.is_decimal(data_type) and not 0 <= data_type.scale <= data_type.precision:
        raise InvalidInputError(
            f"column {field.name!r} has the type {data_type}",
            fix="the scale of a decimal must be between 0 and its precision",
        )
    if pa.types.is_dictionary(data_type) and (
        pa.types.is_nested(data_type.value_type) or pa.types.is_dictionary(data_type.value_type)
    ):
        raise InvalidInputError(
            f"column {field.name!r} is a dictionary of {data_type.value_type}",
            fix="dictionaries hold plain values",
        )
    if pa.types.is_struct(data_type):
        if data_type.num_fields == 0:
            raise InvalidInputError(f"struct column {field.name!r} has no fields", fix="give it at least one")
        check_names([child.name for child in child_fields(data_type)], f"struct column {field.name!r}")
    if pa.types.is_fixed_size_list(data_type) and not 1 <= data_type.list_size <= MAX_VECTOR_DIMENSION:
        raise InvalidInputError(
            f"column {field.name!r} has vectors of dimension {data_type.list_size}",
            fix=f"the dimension must be between 1 and {MAX_VECTOR_DIMENSION}",
        )


def _check_inner_type(field: pa.Field, column: str) -> None:
    """Types that are fine as columns but that Parquet does not give back from inside others."""
    data_type = field.type
    if pa.types.is_string_view(data_type) or pa.types.is_binary_view(data_type):
        raise InvalidInputError(
            f"column {column!r} has values of type {data_type} inside",
            fix=f"use {str(data_type).removesuffix('_view')} there",
        )
    if pa.types.is_dictionary(data_type) and data_type.value_type not in (pa.string(), pa.binary()):
        raise InvalidInputError(
            f"column {column!r} has a dictionary of {data_type.value_type} inside",
            fix=f"use {data_type.value_type} there; dictionaries inside other types hold text or bytes",
        )


def require_column(schema: pa.Schema, name: str) -> pa.Field:
    """The column of this name; InvalidInputError naming near matches where there is none."""
    index = schema.get_field_index(name) if isinstance(name, str) else -1
    if index < 0:
        near = difflib.get_close_matches(str(name), schema.names, n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"columns are {', '.join(schema.names)}"
        )
        raise InvalidInputError(f"no column {name!r}", fix=hint)
    return schema.field(index)


def select_columns(
    schema: pa.Schema, columns: Iterable[str] | None, *, extra: tuple[str, ...] = ()
) -> list[str]:
    """The column names to read: all of the schema, or those asked for, each checked.

    Parameters
    ----------
    columns
        Names in the order wanted, or None for every column of the schema.
    extra
        Further names that may be asked for, such as ``_row_id``.
    """
    if columns is None:
        return list(schema.names)
    if isinstance(columns, str):
        raise InvalidInputError(
            f"columns must be a list of names, not the string {columns!r}", fix=f"write [{columns!r}]"
        )
    names = list(columns)
    for name in names:
        if name not in extra:
            require_column(schema, name)
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise InvalidInputError(f"column {min(duplicates)!r} is asked for more than once")
    return names


def schema_to_bytes(schema: pa.Schema) -> bytes:
    """The schema as an Arrow IPC schema message, field ids included."""
    return bytes(schema.serialize())


def schema_from_bytes(data: bytes) -> pa.Schema:
    """Read a stored schema and check that every field has an id and no two share one."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(f"a stored schema cannot be read: {error}") from error
    ids = [field_id(field) for field in walk_fields(schema)]
    if len(set(ids)) != len(ids):
        raise CorruptionError("two fields of a stored schema have the same id")
    return schema
