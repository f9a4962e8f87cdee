"""The table that a first write makes of a frame: its columns, which of them are vectors, how it is partitioned.

Spark plans a write in a process of its own, and plans more often than it writes: planning looks and touches nothing;
the table is made by the first task that has rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import uuid4

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

import lake_format as lake
from lake_connectors.spark.reading import Place
from lake_format.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from lake_format.schema import is_vector
from lake_format.table import Table

__all__ = ["CREATING", "NewTable", "Shape", "shape_of"]

CREATING = ("vectors", "partitionby")
"""The options that say what a new table is like."""
_COMMA = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True)
class Shape:
    """What options say of a table.

    Attributes
    ----------
    vectors
        The dimension of each column of arrays that holds vectors.
    partition_by
        As for ``lake.create``.
    """

    vectors: Mapping[str, int] = field(default_factory=dict)
    partition_by: tuple[str, ...] = ()

    def check(self, table: Table) -> None:
        """InvalidInputError where a table that is there is none like this."""
        for name, dimension in self.vectors.items():
            found = table.schema.field(name).type if name in table.schema.names else None
            if found is None or not is_vector(found) or found.list_size != dimension:
                raise InvalidInputError(
                    f"column {name!r} of the table is no vector of {dimension} components, as option vectors says",
                    fix="leave the option out: the table is there already",
                )
        if self.partition_by and list(self.partition_by) != table.partitioning:
            raise InvalidInputError(
                f"the table is partitioned by {table.partitioning}, not by {list(self.partition_by)}",
                fix="leave the option partitionBy out: the table is there already",
            )


def shape_of(options: Mapping[str, str]) -> Shape:
    """What the options of a writer say of the table it makes.

    Raises
    ------
    InvalidInputError
        ``vectors`` is not like ``vec=384, other=16``.
    """
    given = {name.lower(): value for name, value in options.items()}
    vectors = {}
    for one in filter(None, (part.strip() for part in given.get("vectors", "").split(","))):
        name, _, dimension = one.rpartition("=")
        if not name.strip() or not dimension.strip().isdecimal():
            raise InvalidInputError(
                f"option vectors says {one!r}", fix="name columns with their dimensions: vec=384, other=16"
            )
        vectors[name.strip()] = int(dimension)
    parts = (part.strip() for part in _COMMA.split(given.get("partitionby", "")))
    return Shape(vectors, tuple(part for part in parts if part))


@dataclass(frozen=True)
class NewTable:
    """A table of a frame's columns that is made when it is needed; plain values that travel between processes."""

    place: Place
    schema: pa.Schema
    partition_by: tuple[str, ...]

    @classmethod
    def of(cls, place: Place, frame: StructType, shape: Shape) -> NewTable:
        """Check that it can be made.

        Raises
        ------
        NotFoundError
            There is no such branch, as there is no table.
        InvalidInputError, UnsupportedError
            A column cannot be what an option says of it, or no column of a table.
        """
        if place.branch is not None:
            raise NotFoundError(f"there is no table at {place.uri}, and no branch {place.branch!r} of it")
        own = to_arrow_schema(frame, timezone="UTC", prefers_large_types=False)
        unknown = next((name for name in shape.vectors if name not in own.names), None)
        if unknown is not None:
            raise InvalidInputError(f"option vectors names {unknown!r}, which the frame does not have")
        fields = [
            pa.field(
                one.name, _vector(one, shape.vectors[one.name]) if one.name in shape.vectors else one.type
            )
            for one in own
        ]
        made = cls(place, pa.schema(fields), shape.partition_by)
        lake.create(f"memory://{uuid4().hex}", made.schema, partition_by=made.partition_by or None)
        return made

    def open(self) -> Table:
        """The table as it was made, by whoever was first: at its first version."""
        options = dict(self.place.storage_options) or None
        try:
            return lake.create(
                self.place.uri, self.schema, partition_by=self.partition_by or None, storage_options=options
            )
        except AlreadyExistsError:
            return replace(self.place, version=1).open()


def _vector(column: pa.Field, dimension: int) -> pa.DataType:
    kind = column.type
    if not pa.types.is_list(kind) or not pa.types.is_floating(kind.value_type):
        raise InvalidInputError(
            f"column {column.name!r} has the type {kind}, and no vectors", fix="vectors are arrays of FLOAT"
        )
    return pa.list_(pa.float32(), dimension)
