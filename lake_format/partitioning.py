"""Partition specs: by which transforms of which columns a table's rows are parted into fragments.

A spec names columns by field id, so that renaming one changes nothing. Tables keep every spec they ever had: each
fragment says by which it was written (spec/partitions.md). Values and checks only; rows are parted by the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.schema import field_by_id, field_id, require_column
from lake_format.statistics import encode_bound
from lake_format.transforms import Transform, parse_transform

__all__ = [
    "FEATURE",
    "Partition",
    "PartitionField",
    "PartitionSpec",
    "parse_partitioning",
    "partition_of",
    "spec_from_json",
    "spec_to_json",
]

FEATURE = "partitions"
"""Whoever writes must know it: rows of a partitioned table do not go just anywhere (PAR-5)."""

_PLURALS = {"years": "year", "months": "month", "days": "day", "hours": "hour"}
_CALL = re.compile(r"\s*([A-Za-z]+)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionField:
    """A transform of one column: its field id."""

    source_id: int
    transform: Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSpec:
    """A way to part rows; without fields, one that does not part them."""

    spec_id: int
    fields: tuple[PartitionField, ...]

    @property
    def source_ids(self) -> frozenset[int]:
        """Field ids of the columns that decide a row's partition."""
        return frozenset(field.source_id for field in self.fields)

    def shown(self, schema: pa.Schema) -> list[str]:
        """The fields as users write them, with the columns' present names."""
        return [field.transform.of(_name(schema, field.source_id)) for field in self.fields]

    def shown_values(self, partition: Partition, schemas: Mapping[int, pa.Schema]) -> str:
        """A partition for people; columns are looked for in the newest schema that has them."""
        parts = []
        for field, value in zip(self.fields, partition.values, strict=True):
            held = (
                found
                for key in sorted(schemas, reverse=True)
                if (found := field_by_id(schemas[key], field.source_id))
            )
            column = next(held, None)
            if column is None:
                raise CorruptionError(
                    f"the table is partitioned by field {field.source_id}, which it never had"
                )
            parts.append(f"{field.transform.of(column.name)}={field.transform.shown(value, column.type)}")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What all rows of a fragment have in common: a value for each field of a spec, encoded as bounds are.

    None is the value of rows whose column is NULL.
    """

    spec_id: int
    values: tuple[bytes | None, ...]


def parse_partitioning(schema: pa.Schema, wanted: object) -> tuple[PartitionField, ...]:
    """Partition fields as users write them.

    Parameters
    ----------
    wanted
        Column names and calls such as ``"day(ts)"``, ``"bucket(16, id)"``, ``"truncate(4, name)"``; one text or
        several.

    Raises
    ------
    InvalidInputError
        An unknown column or transform, a type that cannot be transformed so, or a field given twice.
    """
    texts = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, Iterable) else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(
            f"partition fields are texts, not {wanted!r}", fix='for example ["day(ts)", "bucket(16, id)"]'
        )
    fields = tuple(_parse_field(schema, text) for text in texts)
    for index, field in enumerate(fields):
        if field in fields[:index]:
            raise InvalidInputError(f"the partition field {texts[index]!r} is given twice")
    return fields


def _parse_field(schema: pa.Schema, text: str) -> PartitionField:
    call = None if text in schema.names else _CALL.fullmatch(text)
    if call is None:
        transform, name = Transform("identity"), text
    else:
        transform, name = _parse_call(schema, text, call.group(1).lower(), call.group(2).split(","))
    column = require_column(schema, name)
    if not transform.fits(column.type):
        raise InvalidInputError(
            f"a table cannot be partitioned by {transform.of(name)}: the column is {column.type}",
            fix="see spec/partitions.md for the types that each transform takes",
        )
    return PartitionField(source_id=field_id(column), transform=transform)


def _parse_call(schema: pa.Schema, text: str, name: str, arguments: Sequence[str]) -> tuple[Transform, str]:
    name = _PLURALS.get(name, name)
    parts = [part.strip().strip('"') for part in arguments]
    if len(parts) == 2 and parts[1].isdigit() and parts[1] not in schema.names:
        parts.reverse()
    if len(parts) == 2 and parts[0].isdigit():
        return _checked(f"{name}[{int(parts[0])}]", text), parts[1]
    if len(parts) != 1:
        raise InvalidInputError(f"cannot read the partition field {text!r}", fix="for example bucket(16, id)")
    return _checked(name, text), parts[0]


def _checked(stored: str, text: str) -> Transform:
    try:
        return parse_transform(stored)
    except InvalidInputError as error:
        raise InvalidInputError(f"cannot read the partition field {text!r}", fix=error.fix) from error


def partition_of(spec: PartitionSpec, values: Iterable[pa.Scalar]) -> Partition:
    """The partition of these results, one a field."""
    return Partition(
        spec_id=spec.spec_id, values=tuple(encode_bound(one) if one.is_valid else None for one in values)
    )


def spec_to_json(spec: PartitionSpec) -> dict[str, Any]:
    """A spec as version objects store it."""
    fields = [{"source_id": field.source_id, "transform": str(field.transform)} for field in spec.fields]
    return {"spec_id": spec.spec_id, "fields": fields}


def spec_from_json(raw: Mapping[str, Any]) -> PartitionSpec:
    """Read a stored spec; CorruptionError for a transform that this release does not know."""
    fields = []
    for one in raw["fields"]:
        try:
            transform = parse_transform(one["transform"])
        except (InvalidInputError, TypeError) as error:
            raise CorruptionError(f"a partition spec has the transform {one['transform']!r}") from error
        if type(one["source_id"]) is not int:
            raise CorruptionError(f"a partition spec names the field {one['source_id']!r}")
        fields.append(PartitionField(source_id=one["source_id"], transform=transform))
    if type(raw["spec_id"]) is not int or raw["spec_id"] < 0:
        raise CorruptionError(f"a partition spec has the id {raw['spec_id']!r}")
    return PartitionSpec(spec_id=raw["spec_id"], fields=tuple(fields))


def _name(schema: pa.Schema, identity: int) -> str:
    found = field_by_id(schema, identity)
    return f"field {identity}" if found is None else str(found.name)
