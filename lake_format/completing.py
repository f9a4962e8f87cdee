"""Rows that were written before a column became computed: they get its values as a file beside their own.

For appends that are overtaken by such a column, and for files that others wrote. What the rows may not be held to
otherwise is a conflict (spec/evolution.md, EVO-14). No data file is read here: the engine computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self
from uuid import UUID

from lake_format.engine import Engine
from lake_format.errors import ConflictError, InvalidInputError
from lake_format.keys import KEY_PROPERTY
from lake_format.model import NewFragment, Version
from lake_format.schema import field_by_id, field_id, is_computed
from lake_format.snapshot import Snapshot

__all__ = ["Completing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Completing:
    """How fragments that were written for one version get the computed columns of a later one.

    Attributes
    ----------
    base
        The version that the rows were written for.
    new_id
        Gives the unique part of new files' names.
    """

    engine: Engine
    base: Version
    new_id: Callable[[], UUID]

    def complete(
        self, fragments: Sequence[NewFragment], latest: Snapshot
    ) -> tuple[tuple[NewFragment, ...], frozenset[str]]:
        """The fragments with the columns that are computed since, and the features their files need.

        Raises
        ------
        ConflictError
            Nothing is computed since, or the rows may break another rule of the later version.
        """
        known = {field_id(column) for column in self.base.schema}
        columns = [one for one in latest.schema if is_computed(one) and field_id(one) not in known]
        if not columns or not self._keeps_rules(latest.version):
            raise ConflictError(
                f"version {latest.version.version} brought a rule that the rows were not checked against",
                fix="refresh() the table and append again",
            )
        try:
            return self.engine.complete_fragments(latest, fragments, columns, self.new_id)
        except InvalidInputError as error:
            raise ConflictError(
                f"version {latest.version.version} brought a computed column that the rows do not fit: {error.what}",
                fix="refresh() the table and append rows that do",
            ) from error

    def on(self, version: Version) -> Self:
        """The same for fragments that have the columns of another version by now."""
        return replace(self, base=version)

    def _keeps_rules(self, latest: Version) -> bool:
        """Whether rows of the base fit another version but for columns that are computed there."""
        own = {field_id(column): column for column in self.base.schema}
        for identity, column in own.items():
            now = field_by_id(latest.schema, identity)
            if now is None or now.type != column.type or (column.nullable and not now.nullable):
                return False
        fresh = [one for one in latest.schema if field_id(one) not in own]
        ruled = any(not one.nullable and not is_computed(one) for one in fresh)
        return not ruled and latest.properties.get(KEY_PROPERTY) == self.base.properties.get(KEY_PROPERTY)
