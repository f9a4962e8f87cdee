"""The table that operations meet on: three fragments, a deletion, two indexes that are behind, a tag, a property.

The first fragment is full and in order, so that upkeep may leave it alone; the others are small. Row ids are ids.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from machine.interposed import InterposedStore
from machine.operations import as_arrow
from machine.state import Column, Row, State

import lake_format as lake
from lake_format.schema import field_id
from lake_format.store.local import LocalStore
from lake_format.transaction import Surroundings

ID, N, NAME, PRICE, V, S, S_A, S_B = range(8)
COLUMNS = (
    Column("id", "int64", nullable=False, number=ID),
    Column("n", "int32", number=N),
    Column("name", "string", number=NAME),
    Column("price", "float32", number=PRICE),
    Column("v", "vector3", number=V),
    Column(
        "s", "struct", members=(Column("a", "int8", number=S_A), Column("b", "string", number=S_B)), number=S
    ),
)
COMPUTED = 90
"""The number of a column that is computed: always twice ``n``."""
FULL = 6
ROWS = 10
OLDER = 8
"""A version that can be restored: the one before the last rows came."""
OLDEST = 2
"""Another one, which has a tag: nothing was deleted, and there was no index."""
QUIET = Surroundings(sleep=lambda _seconds: None)


@dataclass(frozen=True)
class Kind:
    """What kind of table it is."""

    keyed: bool = True
    serializable: bool = False


def row(number: int, **changes: Any) -> Row:
    """The row of an id; ``changes`` are by name of the column."""
    plain: dict[int, Any] = {
        ID: number,
        N: number * 7 % 10,
        NAME: None if number in (3, 7) else f"name {number}",
        PRICE: number / 4,
        V: (float(number), 1.0, -2.0),
        S: {S_A: number % 7, S_B: "b"},
    }
    return plain | {one.number: changes[one.name] for one in COLUMNS if one.name in changes}


def arrow(*rows: Row, columns: tuple[int, ...] | None = None) -> pa.Table:
    """Rows as one hands them in."""
    return as_arrow(rows, tuple(one for one in COLUMNS if columns is None or one.number in columns))


@dataclass(frozen=True)
class Base:
    """A table as it is before two operations meet on it."""

    place: TemporaryDirectory[str]
    """Removed when nobody has the table any more."""
    state: State
    field_ids: dict[int, int]
    """By the number of the column."""

    @property
    def folder(self) -> Path:
        return Path(self.place.name) / "table"

    def copied(self, to: Path) -> LocalStore:
        """The store of a copy; a store never writes into a file that is there, so both have the same files."""
        shutil.copytree(self.folder, to, copy_function=os.link)
        return LocalStore(to, sync=False)


def opened(store: LocalStore | InterposedStore) -> lake.Table:
    return lake.open("unused", store=store, surroundings=QUIET)


@cache
def base(kind: Kind) -> Base:
    """The table of a kind, made once."""
    place = TemporaryDirectory(prefix="cells-")
    table = _made(LocalStore(Path(place.name) / "table", sync=False), kind)
    ids = [*range(FULL - 1), *range(FULL, ROWS)]
    properties = {"write.fragment-rows": str(FULL), "write.scalar-format": "parquet", "user.note": "a"}
    if kind.serializable:
        properties["write.isolation"] = "serializable"
    state = State(
        COLUMNS,
        key=ID if kind.keyed else None,
        rows={number: row(number) for number in ids},
        next_row_id=ROWS,
        indexes={"v_l2": (V, "l2"), "v_ip": (V, "ip")},
        tags={"t": 2},
        properties=properties,
        number=table.version,
    )
    older = replace(state, rows={one: state.rows[one] for one in ids if one < FULL}, number=OLDER)
    oldest = replace(older, rows={one: row(one) for one in range(FULL)}, indexes={}, number=OLDEST)
    state = replace(state, history={one.number: one for one in (oldest, older, state)})
    return Base(place, state, _field_ids(table.snapshot.schema))


def _field_ids(schema: pa.Schema) -> dict[int, int]:
    found = {}
    for column in COLUMNS:
        field = schema.field(column.name)
        found[column.number] = field_id(field)
        found |= {one.number: field_id(field.type.field(one.name)) for one in column.members}
    return found


def _made(store: LocalStore, kind: Kind) -> lake.Table:
    properties = {"write.fragment-rows": FULL, "write.scalar-format": "parquet"} | (
        {"write.isolation": "serializable"} if kind.serializable else {}
    )
    table = lake.create(
        "unused",
        pa.schema([one.arrow() for one in COLUMNS]),
        key="id" if kind.keyed else None,
        properties=properties,
        store=store,
        surroundings=QUIET,
    )
    table.append(arrow(*map(row, range(FULL))))
    table.cluster("n")
    table.create_index("v").create_index("v", "ip")
    table.delete(f"id = {FULL - 1}")
    table.set_properties({"user.note": "a", "write.fragment-rows": FULL // 3}).tag("t", 2)
    assert table.version == OLDER
    table.append(arrow(*map(row, range(FULL, ROWS)))).set_properties({"write.fragment-rows": FULL})
    return table
