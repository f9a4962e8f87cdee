"""The schema of a data file in the ids of its Iceberg table, from the file's footer. Pure.

The ids are those in the footer or, where a file has none, those the table's name mapping gives. Columns that the
table does not know get ids that nobody has: every column is described, and none is taken for another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count

import pyarrow as pa
from pyiceberg.table.name_mapping import MappedField, NameMapping

from lake_engines.evolution.projection import projection
from lake_format.errors import CorruptionError, UnsupportedError
from lake_format.schema import FIELD_ID_KEY, child_fields, field_id, walk_fields, with_child_fields

__all__ = ["FileSchemas"]


class FileSchemas:
    """The distinct schemas of a table's data files.

    Parameters
    ----------
    current
        The table's schema, with its ids.
    known
        The ids of all fields the Iceberg table ever had.
    mapping
        Ids by name, for files without ids.
    next_field_id
        The first id nobody has.
    """

    def __init__(
        self, current: pa.Schema, known: Collection[int], mapping: NameMapping | None, next_field_id: int
    ) -> None:
        self._current = current
        self._known = frozenset(known)
        self._mapping = None if mapping is None else list(mapping)
        self._fresh = count(next_field_id)
        self._next = next_field_id
        self._numbers: dict[bytes, int] = {}
        self._seen: dict[int, tuple[pa.Schema, int]] = {}
        self.schemas: list[pa.Schema] = []

    @property
    def next_field_id(self) -> int:
        """The first id that no column has, unknown columns of files included."""
        return self._next

    @property
    def widened(self) -> bool:
        """Whether some file has a column of another type than the table."""
        now = {field_id(field): field.type for field in self._current}
        return any(
            field_id(one) in now and now[field_id(one)] != one.type
            for schema in self.schemas
            for one in schema
        )

    def number(self, footer: pa.Schema, location: str) -> int:
        """Which of ``schemas`` a file with this footer has.

        Raises
        ------
        UnsupportedError
            The file has columns without ids that nothing maps, or of a type that cannot be read as the table's.
        CorruptionError
            Two columns of the file have the same id.
        """
        known = self._seen.get(id(footer))  # files alike come with the same object
        if known is not None:
            return known[1]
        key = footer.remove_metadata().serialize().to_pybytes()
        if key not in self._numbers:
            schema = self._numbered(footer, location)
            self._check(schema, location)
            self._numbers[key] = len(self.schemas)
            self.schemas.append(schema)
        self._seen[id(footer)] = footer, self._numbers[key]
        return self._numbers[key]

    def _numbered(self, footer: pa.Schema, location: str) -> pa.Schema:
        if any(_id_of(field) is not None for field in walk_fields(footer)):
            fields = [self._with_id(field) for field in footer]
        elif self._mapping is not None:
            fields = [self._mapped(field, field.name, self._mapping) for field in footer]
        else:
            raise UnsupportedError(
                f"data file {location} has no field ids, and the Iceberg table no name mapping",
                fix="set its property schema.name-mapping.default",
            )
        ids = [field_id(field) for field in walk_fields(fields)]
        if len(set(ids)) != len(ids):
            raise CorruptionError(f"two columns of data file {location} have the same field id")
        return pa.schema(fields)

    def _with_id(self, field: pa.Field) -> pa.Field:
        found = _id_of(field)
        identity = found if found in self._known else None
        return self._made(field, identity, [self._with_id(child) for child in _children(field)])

    def _mapped(self, field: pa.Field, name: str, mapping: Sequence[MappedField]) -> pa.Field:
        found = next((one for one in mapping if name in one.names), None)
        within = [] if found is None else list(found.fields)
        pairs = zip(_inner_names(field), _children(field), strict=True)
        inside = [self._mapped(child, inner, within) for inner, child in pairs]
        identity = found.field_id if found is not None and found.field_id in self._known else None
        return self._made(field, identity, inside)

    def _made(self, field: pa.Field, identity: int | None, children: list[pa.Field]) -> pa.Field:
        if identity is None:
            identity = next(self._fresh)
            self._next = identity + 1
        data_type = _shape(field.type, children) if children else _leaf(field.type)
        return pa.field(field.name, data_type, field.nullable, {FIELD_ID_KEY: str(identity).encode()})

    def _check(self, schema: pa.Schema, location: str) -> None:
        """Refuse a file that has a column of the table in a type that cannot be read as the table's."""
        by_id = {field_id(field): field for field in schema}
        for field in self._current:
            written = by_id.get(field_id(field))
            if written is None:
                continue
            try:
                projection(written, field)
            except CorruptionError as error:
                raise UnsupportedError(
                    f"column {field.name!r} is {field.type}, but data file {location} holds {written.type}",
                    fix="rewrite the file with the table's types first",
                ) from error


def _id_of(field: pa.Field) -> int | None:
    raw = (field.metadata or {}).get(FIELD_ID_KEY, b"")
    return int(raw) if raw.isdigit() and len(raw) <= 10 else None


def _children(field: pa.Field) -> list[pa.Field]:
    return child_fields(_plain(field.type))


def _inner_names(field: pa.Field) -> Sequence[str]:
    data_type = _plain(field.type)
    if pa.types.is_struct(data_type):
        return [child.name for child in child_fields(data_type)]
    if pa.types.is_map(data_type):
        return ("key", "value")
    return ("element",) if child_fields(data_type) else ()


def _plain(data_type: pa.DataType) -> pa.DataType:
    return data_type.storage_type if isinstance(data_type, pa.BaseExtensionType) else data_type


def _shape(data_type: pa.DataType, children: list[pa.Field]) -> pa.DataType:
    """The nested type with other children; every kind of list is the one that Iceberg knows."""
    plain = _plain(data_type)
    if pa.types.is_struct(plain) or pa.types.is_map(plain):
        return with_child_fields(plain, children)
    return pa.list_(children[0])


def _leaf(data_type: pa.DataType) -> pa.DataType:
    """The type to read values in: what an Arrow writer noted of offsets, codes and zones is not Iceberg's."""
    plain = _plain(data_type)
    if pa.types.is_dictionary(plain):
        plain = plain.value_type
    if pa.types.is_large_string(plain) or pa.types.is_string_view(plain):
        return pa.string()
    if pa.types.is_large_binary(plain) or pa.types.is_binary_view(plain):
        return pa.binary()
    if pa.types.is_timestamp(plain) and plain.tz is not None:
        return pa.timestamp(plain.unit, "UTC")
    return plain
