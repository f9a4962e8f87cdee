"""A table attached to DataFusion beside DataFusion's own copy of it: what its tests start from."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import dataset

import lake_format as lake
from lake_connectors.datafusion import LakeContext, Pushdown, connect

FLOATS = pa.list_(pa.float32())
_CONSTANT = re.compile(r"(?:\[|, )Boolean\(\w+\)(?:, |\])")
"""A constant among the conditions of a scan."""


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

    def can_push(self, condition: str) -> bool:
        """Whether DataFusion can hand a condition to a PyArrow dataset, its own too.

        It cannot combine a constant with the rest of an AND: its package ends in a TypeError then.
        """
        frame = self.ctx.sql(f"SELECT id FROM as_dataset WHERE {condition}")
        return _CONSTANT.search(frame.optimized_logical_plan().display_indent()) is None

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
    held = _plain(table.to_arrow())
    made.ctx.from_arrow(held, "copied")
    made.ctx.register_dataset("as_dataset", dataset.dataset(held))
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
