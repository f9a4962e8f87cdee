"""The side of a table that holds its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from lake_format.changes import SetProperties
from lake_format.errors import InvalidInputError
from lake_format.operation_record import OperationRecord
from lake_format.properties import check_properties
from lake_format.table_core import TableCore

__all__ = ["TableProperties"]


class TableProperties(TableCore):
    """Options that a table remembers, see :data:`lake_format.properties.PROPERTIES`."""

    def set_properties(self, values: Mapping[str, object]) -> Self:
        """Set properties; None removes one, so that its default holds again.

        Raises
        ------
        InvalidInputError
            An unknown property, or a value out of range.
        ConflictError
            Somebody set the same property at the same time.
        """
        self._require_writable()
        if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
            raise InvalidInputError(
                f"properties are values by name, not {values!r}", fix='{"write.fragment-rows": 100_000}'
            )
        if not values:
            return self
        removed = {name: None for name, value in values.items() if value is None}
        checked = check_properties({name: value for name, value in values.items() if value is not None})
        record = OperationRecord(
            kind="set_properties", claims=frozenset(f"property:{name}" for name in values)
        )
        summary = {"properties": ", ".join(sorted(values))}
        self._commit(SetProperties(record=record, summary=summary, values={**checked, **removed}))
        return self
