"""A table attached to DataFusion beside DataFusion's own copy of it: what its tests start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import lake_format as lake
from lake_connectors.datafusion import LakeContext, Pushdown, connect

FLOATS = pa.list_(pa.float32())


@dataclass
class Lake:
    """A table as ``items``, DataFusion's copy of it as ``copied``, and what reached the table."""

    table: lake.Table
    ctx: LakeContext = field(repr=False)  # its repr is all its settings
    seen: list[Pushdown] = field(default_factory=list)

    def rows(self, sql: str, **parameters: Any) -> list[Any]:
        self.seen.clear()
        found = self.ctx.sql(sql, param_values=parameters or None).to_arrow_table()
        return list(zip(*found.to_pydict().values(), strict=True))

    def same(self, sql: str, *, ordered: bool = False, **parameters: Any) -> list[Any]:
        found = self.rows(sql, **parameters)
        pushed = list(self.seen)
        expected = self.rows(sql.replace("items", "copied"), **parameters)
        self.seen[:] = pushed
        if not ordered:
            found, expected = sorted(found, key=repr), sorted(expected, key=repr)
        assert repr(found) == repr(expected), sql
        return found


def attached(table: lake.Table) -> Lake:
    made = Lake(table, connect())
    made.ctx.attach(table, "items", observer=made.seen.append)
    made.ctx.from_arrow(_plain(table.to_arrow()), "copied")
    return made


def _plain(held: pa.Table) -> pa.Table:
    """Members of a struct NULL where it is: DataFusion takes whatever lies there for their values."""
    for at, shown in enumerate(held.schema):
        if pa.types.is_struct(shown.type):
            array = held.column(at).combine_chunks()
            members = pa.StructArray.from_arrays(
                array.flatten(), fields=list(shown.type), mask=array.is_null()
            )
            held = held.set_column(at, shown, members)
    return held
