"""Random histories of a table's columns and rows against plain dictionaries, at new versions and old ones."""

from __future__ import annotations

import itertools
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_format.expressions import sql
from lake_format.store.opening import forget_memory

NAMES = ["a", "b", "c", "d", "e"]
LEAVES = [pa.int8(), pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.float32(), 2)]
WIDER = {
    pa.int8(): [pa.int16(), pa.int64(), pa.float32(), pa.decimal128(12, 2)],
    pa.int16(): [pa.int32(), pa.float64()],
    pa.int32(): [pa.int64()],
    pa.int64(): [pa.decimal128(22, 1)],
    pa.float32(): [pa.float64()],
    pa.string(): [pa.large_string()],
    pa.decimal128(12, 2): [pa.decimal128(14, 4)],
}
_numbers = itertools.count()


@dataclass
class Node:
    """A field: a leaf has a type; a struct has members; of a list of structs the members are the element's."""

    name: str
    type: pa.DataType | None = None
    members: list[Node] | None = None
    is_list: bool = False
    number: int = field(default_factory=lambda: next(_numbers))

    def arrow(self) -> pa.Field:
        if self.members is None:
            return pa.field(self.name, self.type)
        inner = pa.struct([member.arrow() for member in self.members])
        return pa.field(self.name, pa.list_(inner) if self.is_list else inner)

    def show(self, value: Any) -> Any:
        """A value as the table gives it back."""
        if value is None:
            return None
        if self.members is None:
            if self.type is not None and pa.types.is_decimal(self.type):
                return Decimal(value)
            return value
        if self.is_list:
            return [None if one is None else self._record(one) for one in value]
        return self._record(value)

    def _record(self, value: dict[int, Any]) -> dict[str, Any]:
        assert self.members is not None
        return {member.name: member.show(value.get(member.number)) for member in self.members}


class World:
    """The table and what it should hold: rows as values by field number, and every version so far."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.columns = [
            Node("id", pa.int64()),
            Node("a", pa.int8()),
            Node("s", members=[Node("a", pa.int8()), Node("t", members=[Node("b", pa.string())])]),
            Node("l", members=[Node("a", pa.float32()), Node("c", pa.int16())], is_list=True),
        ]
        self.rows: dict[int, dict[int, Any]] = {}
        self.next_id = 0
        uri = f"memory://evolution-{uuid.uuid4().hex}/t"
        properties = {
            "write.fragment-rows": 5,
            "write.scalar-format": data.draw(st.sampled_from(["vortex", "auto", "parquet"])),
        }
        self.table = lake.create(
            uri, pa.schema([node.arrow() for node in self.columns]), properties=properties
        )
        self.history: list[tuple[int, list[Node], dict[int, dict[int, Any]]]] = []

    # --- drawing ---

    def draw(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def groups(self) -> list[tuple[tuple[str, ...], list[Node]]]:
        """Every set of siblings with the path of their parent."""
        found: list[tuple[tuple[str, ...], list[Node]]] = [((), self.columns)]
        for path, nodes in found:
            found += [
                ((*path, node.name, *(["item"] if node.is_list else [])), node.members)
                for node in nodes
                if node.members is not None
            ]
        return found

    def pick(self, wanted: Any = lambda node: True) -> tuple[tuple[str, ...], list[Node], Node] | None:
        found = [
            (path, nodes, node)
            for path, nodes in self.groups()
            for node in nodes
            if node.name != "id" and wanted(node)
        ]
        return self.draw(*found) if found else None

    def free_name(self, nodes: list[Node]) -> str | None:
        names = [name for name in NAMES if name not in {node.name for node in nodes}]
        return self.draw(*names) if names else None

    def value(self, node: Node, depth: int = 0) -> Any:
        if depth and self.draw(True, False, False, False):
            return None
        if node.members is not None:

            def record() -> dict[int, Any]:
                assert node.members is not None
                return {member.number: self.value(member, depth + 1) for member in node.members}

            return [record() for _ in range(self.draw(0, 1, 2))] if node.is_list else record()
        assert node.type is not None
        if pa.types.is_boolean(node.type):
            return self.draw(True, False)
        if pa.types.is_fixed_size_list(node.type):
            return [float(self.draw(0, 1, 2)), 0.5]
        if pa.types.is_string(node.type) or pa.types.is_large_string(node.type):
            return self.draw("", "x", "a longer text")
        return self.draw(-128, 0, 1, 127)

    # --- operations ---

    def append(self) -> None:
        rows = []
        for _ in range(self.draw(1, 3, 7)):
            row = {node.number: self.value(node, 1) for node in self.columns}
            row[self.columns_by_name()["id"].number] = self.next_id
            self.rows[self.next_id] = row
            rows.append(self.shown(row))
            self.next_id += 1
        self.table.append(pa.Table.from_pylist(rows, schema=self.table.schema))

    def add(self) -> None:
        path, nodes = self.draw(*self.groups())
        name = self.free_name(nodes)
        if name is None:
            return
        leaf = Node(name, self.draw(*(LEAVES if not path else LEAVES[:-1])))
        node = (
            leaf
            if self.draw(True, True, False)
            else Node(name, members=[Node("a", pa.int8())], is_list=self.draw(True, False))
        )
        self.table.add_column((*path, name), node.arrow().type)
        nodes.append(node)

    def add_with_values(self) -> None:
        name, factor = self.free_name(self.columns), self.draw(1, -3)
        if name is None:
            return
        node = Node(name, self.draw(pa.int64(), pa.float64()))
        if self.draw(True, False):
            self.table.add_column(name, node.type, sql(f"id * {factor} + 1"))
            self.fill(node, lambda i: i * factor + 1)
        else:
            chosen = [i for i in self.rows if i % 2]
            values = pa.table({"id": pa.array(chosen, pa.int64()), name: pa.array(chosen, node.type)})
            self.table.add_column(name, node.type, values, on="id")
            self.fill(node, lambda i: i, [*chosen])
        self.columns.append(node)

    def fill(self, node: Node, value: Any, ids: list[int] | None = None) -> None:
        for i in self.rows if ids is None else ids:
            self.rows[i][node.number] = value(i)

    def backfill(self) -> None:
        found = [
            n for n in self.columns if n.name != "id" and n.type in (pa.int64(), pa.float64(), pa.string())
        ]
        if not found:
            return
        node, rest = self.draw(*found), self.draw(0, 1)
        where = self.draw(None, f"id % 2 = {rest}", f'"{node.name}" IS NULL')
        text = pa.types.is_string(node.type)
        hit = [
            i for i, row in self.rows.items()
            if where is None or (i % 2 == rest if "%" in where else row.get(node.number) is None)
        ]  # fmt: skip
        self.table.backfill(node.name, "filled" if text else sql("id - 1"), where)
        self.fill(node, lambda i: "filled" if text else i - 1, hit)

    def drop(self) -> None:
        found = self.pick()
        if found and len(found[1]) > 1:
            path, nodes, node = found
            self.table.drop_column((*path, node.name))
            nodes.remove(node)

    def rename(self) -> None:
        found = self.pick()
        if found and (name := self.free_name(found[1])):
            path, _, node = found
            self.table.rename_column((*path, node.name), name)
            node.name = name

    def reorder(self) -> None:
        path, nodes = self.draw(*[one for one in self.groups() if "item" not in one[0][-1:]])
        first = self.data.draw(st.permutations(nodes))[: self.draw(1, 2)]
        self.table.reorder_columns([node.name for node in first], within=path or None)
        nodes[:] = [*first, *(node for node in nodes if node not in first)]

    def widen(self) -> None:
        found = self.pick(lambda node: node.type in WIDER)
        if found:
            path, _, node = found
            target = self.draw(*WIDER[node.type])
            self.table.widen_column((*path, node.name), target)
            node.type = target

    def delete(self) -> None:
        rest = self.draw(0, 1, 2, 3)
        self.table.delete(f"id % 4 = {rest}")
        self.rows = {i: row for i, row in self.rows.items() if i % 4 != rest}

    def update(self) -> None:
        found = [node for node in self.columns if node.type == pa.string()]
        if found:
            node = self.draw(*found)
            self.table.update({node.name: "updated"}, "id % 3 = 1")
            self.fill(node, lambda i: "updated", [i for i in self.rows if i % 3 == 1])

    def compact(self) -> None:
        self.table.compact(self.draw(8, 1000))

    # --- looking ---

    def columns_by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.columns}

    def shown(self, row: dict[int, Any]) -> dict[str, Any]:
        return {node.name: node.show(row.get(node.number)) for node in self.columns}

    def check(self) -> None:
        _check(self.table, self.columns, self.rows)
        self.history.append((self.table.version, deepcopy(self.columns), deepcopy(self.rows)))
        node = self.draw(*self.columns)
        missing = [i for i, row in self.rows.items() if row.get(node.number) is None]
        assert self.table.count(f'"{node.name}" IS NULL') == len(missing)
        found = self.table.scan(["id", "_row_id"], f'"{node.name}" IS NULL').read_all().to_pydict()
        assert sorted(found["id"]) == missing
        rows = self.table.take(found["_row_id"][::-1]).to_pylist()
        assert rows == [self.shown(self.rows[i]) for i in found["id"][::-1]]


def _check(table: lake.Table, columns: list[Node], rows: dict[int, dict[int, Any]]) -> None:
    assert table.schema.equals(pa.schema([node.arrow() for node in columns]))
    found = table.to_arrow()
    found.validate(full=True)
    expected = [{node.name: node.show(row.get(node.number)) for node in columns} for row in rows.values()]
    assert sorted(found.to_pylist(), key=lambda row: row["id"]) == expected


OPERATIONS = [
    "add",
    "add_with_values",
    "append",
    "backfill",
    "compact",
    "delete",
    "drop",
    "rename",
    "reorder",
    "update",
    "widen",
]


@settings(max_examples=25)
@given(st.data())
def test_any_history_of_columns_and_rows(data: st.DataObject) -> None:
    """spec: EVO-1, EVO-2, EVO-3, EVO-4, EVO-6"""
    world = World(data)
    try:
        world.append()
        for name in data.draw(st.lists(st.sampled_from([*OPERATIONS, "append"]), min_size=3, max_size=14)):
            getattr(world, name)()
            world.check()
        for version, columns, rows in world.history:
            _check(lake.open(world.table.uri, version=version), columns, rows)
    finally:
        forget_memory(world.table.uri)
