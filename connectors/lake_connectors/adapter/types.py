"""A table's types as an engine takes them: what it cannot read is declared, and handed over, as its nearest kin.

Pure; every conversion is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

__all__ = ["EngineTypes", "Rule", "fitted"]

Rule = tuple[Callable[[pa.DataType], bool], Callable[[pa.DataType], pa.DataType]]
"""A test for types an engine lacks, and what stands in for them (or an error that says so)."""


class EngineTypes:
    """The types of one engine.

    Parameters
    ----------
    rules
        Asked in order for every type that is not nested, the first that applies decides. Nested types are kept,
        with their members declared; dictionaries become their values, list views lists.
    nullable_members
        Whether members of nested types are declared as nullable whatever they are in the table.
    """

    def __init__(self, rules: Sequence[Rule], *, nullable_members: bool = False) -> None:
        self._rules = tuple(rules)
        self._nullable_members = nullable_members

    def declared(self, kind: pa.DataType) -> pa.DataType:
        """The type as which the engine is shown a column of type ``kind``.

        Raises
        ------
        UnsupportedError
            The engine has nothing that holds every value of the type.
        """
        for test, convert in self._rules:
            if test(kind):
                return convert(kind)
        if pa.types.is_dictionary(kind):
            return self.declared(kind.value_type)
        if pa.types.is_struct(kind):
            return pa.struct([self._member(kind.field(index)) for index in range(kind.num_fields)])
        if pa.types.is_map(kind):
            return pa.map_(self.field(kind.key_field), self._member(kind.item_field))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(self._member(kind.value_field), kind.list_size)
        if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
            return pa.large_list(self._member(kind.value_field))
        if pa.types.is_list(kind) or pa.types.is_list_view(kind):
            return pa.list_(self._member(kind.value_field))
        return kind

    def field(self, field: pa.Field) -> pa.Field:
        """A field with its declared type, without metadata."""
        return pa.field(field.name, self.declared(field.type), field.nullable)

    def _member(self, field: pa.Field) -> pa.Field:
        shown = self.field(field)
        return shown.with_nullable(True) if self._nullable_members else shown

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema as the engine is shown it, without metadata."""
        return pa.schema([self.field(field) for field in schema])


def fitted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` as ``kind``; itself where it has that type already."""
    return array if array.type == kind else array.cast(kind)
