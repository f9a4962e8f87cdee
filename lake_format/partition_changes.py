"""Changes of how a table is partitioned as commits, and what they forbid changes of the schema.

Rows that are written already stay as they are: each fragment remembers its spec (spec/partitions.md, PAR-7, PAR-8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from lake_format.draft import Draft
from lake_format.errors import ConflictError, InvalidInputError
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.partitioning import PartitionField
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot

__all__ = ["SetPartitioning", "check_partition_sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPartitioning:
    """Part rows that are written from now on by other fields."""

    fields: tuple[PartitionField, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> OperationRecord:
        """One at a time."""
        return OperationRecord(kind="set_properties", claims=frozenset({"property:partitioning"}))

    def apply(self, draft: Draft) -> OperationRecord:
        """Make the fields the current spec, if the columns are still there and still fit."""
        for one in self.fields:
            column = field_by_id(draft.version.schema, one.source_id)
            if column is None or not one.transform.fits(column.type):
                raise ConflictError(
                    f"a column to partition by, field {one.source_id}, was dropped or altered meanwhile",
                    fix="refresh() the table and look",
                )
        draft.set_partitioning(self.fields)
        return self.record

    def replan(self, latest: Snapshot) -> Self:
        """Fits any version that has the columns."""
        return self


def check_partition_sources(version: Version, schema: pa.Schema) -> None:
    """Raise InvalidInputError if a new schema takes something away that partitions are made of.

    The columns of the current spec must stay; those of any spec may be widened only where every partition value
    stays what it is.
    """
    current = version.partitioning
    for spec in version.partition_specs.values():
        for one in spec.fields:
            before, after = field_by_id(version.schema, one.source_id), field_by_id(schema, one.source_id)
            if before is None:
                continue
            if after is None:
                if spec is current:
                    raise InvalidInputError(
                        f"column {before.name!r} cannot be dropped: the table is partitioned by "
                        f"{one.transform.of(before.name)}",
                        fix="set_partitioning() to other columns first",
                    )
            elif before.type != after.type and not one.transform.survives(before.type, after.type):
                raise InvalidInputError(
                    f"column {before.name!r} cannot be made {after.type}: fragments are partitioned by "
                    f"{one.transform.of(before.name)}, which would give other values"
                )
