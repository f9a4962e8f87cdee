"""Members of structs that get values, when added or later: as columns would, with nothing else of the struct lost.

spec: EVO-15, EVO-16
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import Location
from hypothesis import given, settings
from hypothesis import strategies as st
from machine.interposed import InterposedStore

import lake_format as lake
from lake_format.errors import ConflictError, InvalidInputError, LakeError, UnsupportedError
from lake_format.store import Store, forget_memory, open_store

AT = pa.struct([("city", pa.string()), ("deep", pa.struct([("n", pa.int32())]))])
SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), False), ("zip", pa.string()), ("at", AT), ("v", pa.list_(pa.float32(), 2))]
)


def rows(*ids: int) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "zip": f"z{i}",
            "at": None if i % 5 == 4 else {"city": f"City {i}", "deep": None if i % 3 == 2 else {"n": i}},
            "v": [float(i), 0.0],
        }
        for i in ids
    ]


@cache
def sample(layout: str) -> dict[str, bytes]:
    """The objects of a table of two fragments, with deleted rows and NULLs, made once."""
    store = open_store(f"memory://member-sample-{layout}")
    table = lake.create("unused", SCHEMA, store=store, layout=layout, properties={"write.fragment-rows": 10})
    table.append(rows(*range(20))).delete("id IN (3, 8)")
    return {info.path: store.get(info.path) for info in store.list("")}


def make(store: Store, layout: str = "split") -> lake.Table:
    """The sample, put into a store of its own."""
    for path, data in sample(layout).items():
        store.put(path, data)
    return lake.open("unused", store=store)


@pytest.fixture(params=["split", pytest.param("open", marks=pytest.mark.long)])
def table(request: pytest.FixtureRequest, memory_location: Location) -> lake.Table:
    return make(memory_location.store(), layout=request.param)


def members(table: lake.Table) -> dict[int, Any]:
    return {row["id"]: row["at"] for row in table.scan(["id", "at"]).read_all().to_pylist()}


def left(table: lake.Table, *names: str) -> dict[int, Any]:
    """The structs as they were, without these members; fails where anything else about the table is wrong."""
    assert table.verify().problems == []
    found = members(table)
    return {i: at and {name: one for name, one in at.items() if name not in names} for i, at in found.items()}


def twice(batch: pa.RecordBatch) -> pa.Array:
    return pc.multiply(batch.column("id"), 2)


WAYS: dict[str, tuple[Any, dict[str, Any], Callable[[int], Any]]] = {
    "constant": (7, {}, lambda i: 7),
    "expression": (lake.sql("id * 10"), {}, lambda i: i * 10),
    "expression over the struct": (lake.sql("length(at.city)"), {}, lambda i: len(f"City {i}")),
    "arrow": (pc.field("id") + 1, {}, lambda i: i + 1),
    "function": (twice, {"inputs": ["id"]}, lambda i: 2 * i),
    "function of all": (twice, {}, lambda i: 2 * i),
    "joined": (pa.table({"id": [1, 2, 19], "new": [5, 6, 7]}), {"on": "id"}, {1: 5, 2: 6, 19: 7}.get),
    "joined by row id": (pa.table({"_row_id": [1, 2], "x": [5, None]}), {}, {1: 5}.get),
}


@pytest.mark.parametrize("way", WAYS)
def test_values_of_every_kind(table: lake.Table, way: str) -> None:
    values, how, value = WAYS[way]
    before, version = members(table), table.version
    table.add_column("at.new", pa.int64(), values, **how)
    assert table.version == version + 1
    expected = {i: at and {**at, "new": value(i)} for i, at in before.items()}
    assert members(table) == members(lake.open("unused", store=table.snapshot.store)) == expected
    assert table.count("at.new IS NULL") == sum(not at or at["new"] is None for at in expected.values())
    assert left(table, "new") == before
    table.compact(1000)
    assert members(table) == expected


@pytest.mark.parametrize("way", ["expression over the struct", "joined"])
def test_values_in_the_open_layout(memory_location: Location, way: str) -> None:
    table = make(memory_location.store(), "open")
    test_values_of_every_kind(table, way)
    test_a_member_is_filled(make(open_store(f"{memory_location.uri}-filled"), "open"), "some rows", None)


def test_deep_members_and_names_of_columns(table: lake.Table) -> None:
    """A member may be called like a column, which is another one."""
    table.add_column("at.zip", values=lake.sql("upper(zip)"))
    table.add_column(("at", "deep", "id"), pa.int32(), lake.sql("at.deep.n + id"), comment="both")
    assert table.schema.field("at").type.field("deep").type.field("id").metadata == {b"comment": b"both"}
    for i, at in members(table).items():
        if at is not None:
            assert at["zip"] == f"Z{i}"
            assert at["deep"] == (None if i % 3 == 2 else {"n": i, "id": 2 * i})
    assert table.to_arrow()["zip"].to_pylist()[:2] == ["z0", "z1"]


def test_only_the_struct_is_written(table: lake.Table) -> None:
    known = {file["path"] for file in table.inspect.files().to_pylist()}
    table.add_column("at.new", values=1)
    new = [file for file in table.inspect.files().to_pylist() if file["path"] not in known]
    assert {tuple(file["columns"]) for file in new} == {("at",)}
    assert len(new) == 2
    (record,) = table.snapshot.version.operations
    assert record["kind"] == "add_column"
    assert len(record["fields_written"]) == 2


def test_rows_to_come_and_a_name_that_was_there_before(table: lake.Table) -> None:
    table.add_column("at.new", values="old").drop_column("at.new").add_column(
        "at.new", pa.int64(), lake.sql("id")
    )
    table.append([{"id": 50, "at": {"city": "x", "new": 1}}, {"id": 51, "at": {"city": "x"}}])
    found = members(table)
    assert (found[2]["new"], found[50]["new"], found[51]["new"]) == (2, 1, None)
    table.update({"at": {"city": "y"}}, "id = 2")
    assert members(table)[2] == {"city": "y", "deep": None, "new": None}


def test_an_empty_table_and_one_without_rows_to_fill(memory_location: Location) -> None:
    table = lake.create("unused", SCHEMA, store=memory_location.store())
    table.add_column("at.new", values=lake.sql("id * 2"))
    assert members(table.append([{"id": 1, "at": {"new": 5}}]))[1]["new"] == 5


def refused(kind: type[LakeError], match: str, what: Callable[[], object]) -> None:
    with pytest.raises(kind, match=match):
        what()


def test_what_is_refused(table: lake.Table) -> None:
    version, files = table.version, len(table.inspect.files())
    add = table.add_column
    refused(UnsupportedError, "forbids NULL", lambda: add("at.new", values=1, nullable=False))
    refused(
        UnsupportedError,
        "only whole columns are computed",
        lambda: add("at.new", values=lake.sql("id"), computed=True),
    )
    refused(InvalidInputError, "already|'city'", lambda: add("at.city", values=1))
    refused(InvalidInputError, "no column 'new'", lambda: add("at.new", pa.int8(), lake.sql("new + 1")))
    refused(
        InvalidInputError,
        "'new' cannot take|'new' is int8",
        lambda: add("at.new", pa.int8(), lake.sql("id * 100")),
    )
    refused(InvalidInputError, "cannot get a member", lambda: add("zip.new", values=1))
    table.add_column("list", pa.list_(pa.struct([("a", pa.int8())])))
    refused(UnsupportedError, "lies in a list", lambda: add("list.item.b", values=1))
    assert (table.version, len(table.inspect.files())) == (version + 1, files)


# --- members that are there -------------------------------------------------------------------------------------


def filled(table: lake.Table, values: Callable[[int], Any], ids: Callable[[int], bool]) -> dict[int, Any]:
    """The structs as they are to be once member ``city`` of some rows got other values."""
    return {i: at and ({**at, "city": values(i)} if ids(i) else at) for i, at in members(table).items()}


CITIES: dict[str, tuple[Any, dict[str, Any], Callable[[int], Any], Callable[[int], bool]]] = {
    "constant": ("x", {}, lambda i: "x", lambda i: True),
    "NULL": (None, {}, lambda i: None, lambda i: True),
    "some rows": (lake.sql("upper(at.city)"), {"where": "id < 9"}, lambda i: f"CITY {i}", lambda i: i < 9),
    "by itself": (
        lake.sql("upper(coalesce(zip, at.city))"),
        {"where": "at.city IN ('City 5', 'City 4')"},
        lambda i: f"Z{i}",
        lambda i: i == 5,
    ),
    "function": (lambda batch: batch.column("zip"), {"inputs": ["zip"]}, lambda i: f"z{i}", lambda i: True),
    "joined": (
        pa.table({"id": [1, 7], "city": ["a", None]}),
        {"on": "id"},
        {1: "a"}.get,
        {1, 7}.__contains__,
    ),
}


FILLS = [
    *((way, None) for way in CITIES),
    *(pytest.param(way, "fill", marks=() if way == "some rows" else pytest.mark.long) for way in CITIES),
]


@pytest.mark.parametrize(("way", "job"), FILLS)
def test_a_member_is_filled(table: lake.Table, way: str, job: str | None) -> None:
    values, how, value, ids = CITIES[way]
    expected, version = filled(table, value, ids), table.version
    known = {file["path"] for file in table.inspect.files().to_pylist()}
    table.backfill("at.city", values, job=job, **how)
    assert table.version == version + 1
    assert table.snapshot.version.summary["column"] == "at.city"
    new = [file for file in table.inspect.files().to_pylist() if file["path"] not in known]
    assert {tuple(file["columns"]) for file in new} == {("at",)}
    assert members(table) == left(lake.open("unused", store=table.snapshot.store)) == expected
    assert table.count("at.city = 'x'") == (14 if way == "constant" else 0)
    table.compact(1000)
    assert members(table) == expected


def test_a_deep_member_is_filled(table: lake.Table) -> None:
    table.add_column("at.deep.m", pa.int64()).rename_column("at", "place").reorder_columns(
        ["deep"], within="place"
    )
    table.backfill("place.deep.m", lake.sql("id + place.deep.n"))
    table.backfill(("place", "deep", "n"), 0, "id = 1")
    for i, place in ((row["id"], row["place"]) for row in table.scan(["id", "place"]).read_all().to_pylist()):
        deep = None if i % 3 == 2 else {"n": 0 if i == 1 else i, "m": 2 * i}
        assert place == (None if i % 5 == 4 else {"deep": deep, "city": f"City {i}"})


def test_members_that_are_not_filled(table: lake.Table) -> None:
    table.add_column("list", pa.list_(pa.struct([("a", pa.int8())])))
    table.add_column("text", values=lake.sql("at.city"), computed=True)
    table.add_column("other", pa.struct([("a", pa.int8())])).alter_column("other.a", nullable=False)
    version, files = table.version, len(table.inspect.files())
    refused(UnsupportedError, "lies in a list", lambda: table.backfill("list.item.a", 1))
    refused(UnsupportedError, "forbids NULL", lambda: table.backfill("other.a", 1))
    refused(InvalidInputError, "'text' is computed from 'at.city'", lambda: table.backfill("at.city", "x"))
    refused(InvalidInputError, "'n' is int32", lambda: table.backfill("at.deep.n", "x"))
    refused(InvalidInputError, "no column 'at.nope'", lambda: table.backfill("at.nope", 1))
    assert (table.version, len(table.inspect.files())) == (version, files)
    assert members(table.backfill("at.deep.n", 5))[1] == {"city": "City 1", "deep": {"n": 5}}


def test_an_update_of_a_member_says_what_gives_it_values(table: lake.Table) -> None:
    hint = r"'at.city' is a member of column 'at'.*backfill\('at.city', …, where=…\)"
    for call in (table.update, table.plan_update):
        refused(InvalidInputError, hint, lambda call=call: call({"at.city": "x"}, "id = 1"))
    refused(
        InvalidInputError,
        "no column 'at.town' — there are city, deep",
        lambda: table.update({"at.town": "x"}),
    )
    assert members(table.backfill("at.city", "x", "id = 1"))[1]["city"] == "x"


# --- others at the same time ------------------------------------------------------------------------------------


def race(store: Store, mine: Callable[[lake.Table], Any], theirs: Callable[[lake.Table], Any]) -> lake.Table:
    make(store)
    between = InterposedStore(store)
    table = lake.open("unused", store=between)
    between.meanwhile = lambda: theirs(lake.open("unused", store=store))
    try:
        mine(table)
    finally:
        between.raise_failure()
        assert between.meanwhile is None
    return lake.open("unused", store=store)


@cache
def after(*steps: Callable[[lake.Table], Any]) -> dict[int, Any]:
    """What the structs are once these were done one after the other."""
    table = make(open_store(f"memory://member-steps-{next(_unique)}"))
    for step in steps:
        step(table)
    return members(table.refresh())


_unique = count()


def add(table: lake.Table) -> lake.Table:
    return table.add_column("at.new", pa.int64(), lake.sql("id * 10"))


OTHERS: dict[str, Callable[[lake.Table], Any]] = {
    "append": lambda table: table.append(rows(50)),
    "delete": lambda table: table.delete("id IN (1, 12)"),
    "update of the struct": lambda table: table.update({"at": {"city": "moved"}}, "id = 2"),
    "update of another": lambda table: table.update({"zip": "moved"}, "id < 9"),
    "upsert": lambda table: table.upsert(rows(2, 60), on="id"),
    "compact": lambda table: table.compact(1000),
    "rename": lambda table: table.rename_column("at", "place").rename_column("place", "at"),
    "rename a member": lambda table: table.rename_column("at.city", "town").rename_column("at.town", "city"),
    "widen a member": lambda table: table.widen_column("at.deep.n", pa.int64()),
    "reorder": lambda table: table.reorder_columns(["deep"], within="at"),
    "another column": lambda table: table.add_column("other", values=lake.sql("id")),
    "another member with values": lambda table: table.add_column(
        "at.other", values=lake.sql("length(at.city) - id")
    ),
    "another member": lambda table: table.add_column("at.other", pa.struct([("x", pa.int8())])),
}


REPLANNED = ("append", "update of the struct", "upsert", "compact", "another member with values", "add")
"""Those that are more than renumbered where they are overtaken; the others are so in long runs."""


def orders(*names: str) -> list[Any]:
    """Whose commit is overtaken: mine, or the other's."""
    later = [pytest.param(name, False, marks=() if name in REPLANNED else pytest.mark.long) for name in names]
    return [*((name, True) for name in names), *later]


@pytest.mark.parametrize(("name", "first"), orders(*OTHERS))
def test_whoever_comes_first(memory_location: Location, name: str, first: bool) -> None:
    """What both did is there: no value of the struct is lost, and who got one has it."""
    other, store = OTHERS[name], memory_location.store()
    table = race(store, add, other) if first else race(store, other, add)
    assert left(table, "new") == after(other)
    without = {50, 60, *({2} if "struct" in name or name == "upsert" else ())}
    for i, at in members(table).items():
        assert at is None or at["new"] == i * 10 or (i in without and at["new"] is None)
    table.append(rows(90)).compact(1000)
    assert table.verify().problems == []


def test_members_that_give_values_to_some_rows_each(memory_location: Location) -> None:
    """spec: EVO-15. Two writers add a member each, with values for rows that they share, or do not."""
    for mine, theirs in (([1, 2, 12], [2, 3, 19]), ([1, 2], [3, 19])):
        joined = [pa.table({"id": ids, name: ids}) for ids, name in ((mine, "m"), (theirs, "t"))]
        store = open_store(f"{memory_location.uri}-{len(mine)}")
        table = race(
            store,
            lambda table, own=joined[0]: table.add_column("at.m", pa.int64(), own, on="id"),
            lambda table, own=joined[1]: table.add_column("at.t", pa.int64(), own, on="id"),
        )
        for i, at in members(table).items():
            given = {"m": i if i in mine else None, "t": i if i in theirs else None}
            assert at is None or {name: at[name] for name in given} == given
            assert at is None or at["city"] == f"City {i}"
        assert table.append(rows(90)).verify().problems == []


def fill(table: lake.Table) -> lake.Table:
    return table.backfill("at.city", lake.sql("upper(at.city)"), "id < 12")


@pytest.mark.parametrize(("name", "first"), orders(*OTHERS, "add"))
def test_a_fill_and_whoever_comes_first(memory_location: Location, name: str, first: bool) -> None:
    """What comes of it is what one after the other would have come to, in some order."""
    other, store = {**OTHERS, "add": add}[name], memory_location.store()
    found = members(race(store, fill, other) if first else race(store, other, fill))
    assert found in (after(fill, other), after(other, fill))
    table = lake.open("unused", store=store)
    assert table.append(rows(90)).verify().problems == []


def test_structs_that_are_read_and_written_keep_a_member_that_comes_meanwhile(
    memory_location: Location,
) -> None:
    table = race(
        memory_location.store(),
        lambda table: table.update({"at": lambda batch: batch.column("at")}, "id < 9"),
        add,
    )
    assert {i: at["new"] for i, at in members(table).items() if at} == {
        i: i * 10 for i, at in members(table).items() if at
    }


@pytest.mark.parametrize("what", ["at", "at.city", "required"])
def test_a_fill_of_what_goes_meanwhile(memory_location: Location, what: str) -> None:
    store = memory_location.store()

    def theirs(table: lake.Table) -> lake.Table:
        return (
            table.drop_column(what) if what != "required" else table.alter_column("at.city", nullable=False)
        )

    with pytest.raises(ConflictError):
        race(store, fill, theirs)
    assert lake.open("unused", store=store).verify().problems == []


def test_a_member_that_goes_meanwhile(memory_location: Location) -> None:
    table = race(memory_location.store(), add, lambda table: table.drop_column("at.city"))
    assert members(table)[2] == {"deep": None, "new": 20}


REFUSED: dict[str, Callable[[lake.Table], Any]] = {
    "the struct goes": lambda table: table.drop_column("at"),
    "the name is taken": lambda table: table.add_column("at.NEW", pa.int8()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(memory_location: Location, name: str) -> None:
    store = memory_location.store()
    with pytest.raises(ConflictError):
        race(store, add, REFUSED[name])
    assert lake.open("unused", store=store).verify().problems == []


@pytest.fixture
def store() -> Iterator[Store]:
    yield open_store("memory://member-model")
    forget_memory("member-model")


@given(
    steps=st.lists(
        st.sampled_from([*sorted(one for one in OTHERS if not one.startswith("another ")), "add"]), max_size=7
    )
)
@settings(max_examples=20, deadline=None)
def test_histories(steps: list[str]) -> None:
    """A member that was added last says what its expression did, and all before it what they did."""
    forget_memory("member-history")
    table = make(open_store("memory://member-history"))
    model: dict[str, dict[int, Any]] = {}
    for number, name in enumerate(steps):
        if name == "add":
            table.add_column(f"at.m{number}", pa.int64(), lake.sql("id + length(at.city)"))
            model[f"m{number}"] = {
                i: at and at["city"] and i + len(at["city"]) for i, at in members(table.refresh()).items()
            }
        else:
            OTHERS[name](table.refresh())
        now = members(table.refresh())
        if name in ("update of the struct", "upsert", "append"):  # they say nothing of these members
            for own in model.values():
                own.update(dict.fromkeys({"append": (50,), "upsert": (2, 60)}.get(name, (2,))))
        for member, own in model.items():
            assert {i: at and at[member] for i, at in now.items()} == {i: now[i] and own.get(i) for i in now}
    assert table.verify().problems == []
