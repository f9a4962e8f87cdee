"""Computed columns: whatever is done to a table, each row holds what the expression makes of it.

spec: SCH-10, EVO-12, EVO-13
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from conftest import Location
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_format.computed_columns import COMPUTED_FEATURE, expression_of
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.schema import field_id
from lake_format.store import forget_memory
from lake_format.transaction import Surroundings

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), False),
        ("price", pa.float64()),
        ("amount", pa.int32()),
        ("at", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ("v", pa.list_(pa.float32(), 2)),
    ]
)
TOTAL = lake.sql("price * amount")


def rows(*ids: int) -> pa.Table:
    columns = {
        "id": list(ids),
        "price": [None if i % 5 == 4 else i / 4 for i in ids],
        "amount": [i % 7 for i in ids],
        "at": [{"city": f"City {i % 3}", "zip": i} for i in ids],
        "v": [[float(i), 0.0] for i in ids],
    }
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in columns}, SCHEMA)


def make(location: Location, key: str | None = None, **more: Any) -> lake.Table:
    properties = {"write.fragment-rows": 6, **more.pop("properties", {})}
    table = lake.create(location.uri, SCHEMA, key=key, properties=properties, **more)
    table.append(rows(*range(20)))
    return with_computed(table)


def with_computed(table: lake.Table) -> lake.Table:
    table.add_column("total", values=TOTAL, computed=True)
    return table.add_column("town", values=lake.sql("lower(at.city)"), computed=True)


def holds(table: lake.Table, price: str = "price", amount: str = "amount") -> lake.Table:
    """The table, after a look at every row of it."""
    seen = lake.open(table.uri) if table.branch == "main" else table
    for row in seen.to_arrow().to_pylist():
        known = row[price] is not None and row[amount] is not None
        assert row["total"] == (row[price] * row[amount] if known else None), row
        city = (row["at"] or {}).get("city")
        assert row["town"] == (None if city is None else city.lower()), row
    assert seen.verify().problems == []
    return table


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    return make(memory_location)


@pytest.fixture
def keyed(memory_location: Location) -> lake.Table:
    return make(memory_location, key="id")


def refused(kind: type[LakeError], match: str, what: Callable[[], object]) -> None:
    with pytest.raises(kind, match=match):
        what()


# --- what keeps them right --------------------------------------------------------------------------------------


def test_rows_that_are_there_and_rows_to_come(table: lake.Table) -> None:
    assert holds(table).count("total > 3") == 10
    table.append(rows(30, 31, 34)).append([{"id": 40, "price": 1.5}])
    table.append(pa.table({"id": pa.array([41], pa.int64())}))
    assert holds(table).count() == 25
    assert table.count("total = 15") == 2  # pruned by statistics as any other
    assert COMPUTED_FEATURE in table.snapshot.version.required_features


def test_in_the_open_layout(memory_location: Location) -> None:
    table = make(memory_location, layout="open")
    table.append(rows(30, 31, 34)).update({"price": 2.0}, "id < 5 OR id = 31")
    assert holds(table).compact(100)
    assert holds(table).count("total = 2 * amount") == 8


def test_large_appends_are_computed_in_slices(table: lake.Table) -> None:
    table.set_properties({"write.fragment-rows": 100_000})
    ids = pa.array(range(100, 70_100), pa.int64())
    table.append(pa.table({"id": ids, "price": ids.cast(pa.float64()), "amount": ids.cast(pa.int32())}))
    assert table.count("total = price * amount") == 70_000 + 16
    assert table.count("total IS NULL") == 4


@pytest.mark.parametrize("strategy", ["move", "patch", "rewrite"])
def test_updates_of_inputs(keyed: lake.Table, strategy: str) -> None:
    keyed.set_properties({"write.update-strategy": strategy})
    keyed.update({"price": 100.0}, "id < 3")
    keyed.update({"price": lake.sql("amount"), "amount": lake.sql("amount + 1")}, "id = 9")
    keyed.update({"at": {"city": "ELSEWHERE"}}, "id >= 15")
    keyed.update({"price": lambda rows: rows["id"], "v": [1.0, 1.0]}, "id = 4", inputs=["id"])
    assert keyed.get(4)["total"] == 16
    assert holds(keyed).get(19)["town"] == "elsewhere"


def test_an_update_of_nothing_they_read_leaves_them_alone(table: lake.Table) -> None:
    version = table.version
    table.update({"v": [3.0, 3.0]}, "id < 3")
    (record,) = table.snapshot.version.operations
    assert record["fields_written"] == [field_id(table.snapshot.schema.field("v"))]
    assert holds(table).version == version + 1


def test_their_part_is_in_the_record(table: lake.Table) -> None:
    """spec: EVO-13 — other commits are judged by it."""
    ids = {field.name: field_id(field) for field in table.snapshot.schema}
    table.update({"price": 1.0}, "id = 3")
    (record,) = table.snapshot.version.operations
    assert set(record["fields_written"]) == {ids["price"], ids["total"]}
    assert set(record["fields_read"]) == {ids["id"], ids["amount"]}


def test_upsert_merge_and_overwrite(keyed: lake.Table) -> None:
    keyed.upsert([{"id": 3, "amount": 50}])
    keyed.upsert([{"id": 60, "price": 2.0, "amount": 3}])
    keyed.upsert(rows(2, 61))
    assert holds(keyed).get(3)["total"] == 37.5
    merge = keyed.merge([{"id": 1, "price": 8.0}, {"id": 62, "price": 3.0}])
    merge.when_matched_update({"price": lake.sql("source.price + price")})
    merge.when_not_matched_insert({"price": lake.sql("source.price * 2"), "amount": 4})
    merge.when_not_matched_by_source_update({"amount": 1}, condition="id > 15").execute()
    assert holds(keyed).get([62, 17], columns=["total"])["total"].to_pylist() == [24, 4.25]
    keyed.overwrite(rows(1, 70), "id < 10")
    assert holds(keyed).count() == 15


def test_a_key_that_is_an_input_gets_new_values(keyed: lake.Table) -> None:
    keyed.add_column("next", values=lake.sql("id + 1"), computed=True)
    keyed.update({"id": lake.sql("id + 100"), "price": 1.0}, "id < 4")
    assert holds(keyed).count("next = id + 1") == 20
    keyed.upsert([{"id": 100, "amount": 2}, {"id": 500}])
    assert keyed.count("next = id + 1") == 21
    refused(
        InvalidInputError, "'next' is computed and cannot be part of a key", lambda: keyed.set_key("next")
    )


def test_partitioned_and_clustered_by_a_computed_column(memory_location: Location) -> None:
    table = make(memory_location)
    table.set_partitioning(["town"])
    table.set_clustering(["total"])
    table.append(rows(*range(30, 50)))
    table.update({"at": {"city": "Moved"}}, "id IN (31, 40)")
    holds(table).compact(100)
    assert holds(table).count("town = 'moved'") == 2


def test_upkeep_copies_and_versions(table: lake.Table, memory_location: Location) -> None:
    table.delete("id IN (1, 2, 7)")
    table.compact(100)
    before = table.version
    holds(table).update({"price": 5.0}, "id = 3")
    holds(table).restore(before)
    holds(table).append(rows(80))
    assert table.count("total = 2.25") == 1
    copy = table.clone(f"{memory_location.uri}-clone")
    copy.append(rows(90))
    assert copy.to_arrow().to_pylist()[-1]["total"] == 22.5 * 6
    table.backup(f"{memory_location.uri}-kept")
    back = lake.restore_backup(f"{memory_location.uri}-kept", f"{memory_location.uri}-back")
    back.update({"amount": 3}, "id = 80")
    assert back.to_arrow().to_pylist()[-1]["total"] == 60
    refused(InvalidInputError, "cannot be set", lambda: copy.update({"total": 1.0}))


def test_branches(table: lake.Table) -> None:
    table.create_branch("work")
    work = lake.open(table.uri, branch="work")
    work.append(rows(50)).update({"price": 2.0}, "id = 3")
    table.update({"v": [0.0, 1.0]}, "id = 3")
    table.merge_branch("work")
    assert holds(table).count("total = 6") == 1


def test_parts_of_many_processes(table: lake.Table) -> None:
    parts = [lake.open(table.uri).write_part(rows(number, number + 1)) for number in (60, 70)]
    table.commit_parts(parts)
    assert holds(table).count() == 24


def test_in_a_transaction(table: lake.Table) -> None:
    with table.transaction() as tx:
        tx.add_column("tax", values=lake.sql("price / 4"), computed=True)
        tx.append(rows(50))
        tx.update({"price": 9.0}, "id >= 50 OR id = 2")
    assert holds(table).count("tax = price / 4") == 17


def test_from_the_beginning(memory_location: Location) -> None:
    schema = SCHEMA.append(pa.field("total", pa.float64())).append(pa.field("town", pa.string(), False))
    table = lake.create(
        memory_location.uri,
        schema,
        computed={"total": "price * amount", "town": "coalesce(lower(at.city), '')"},
    )
    table.append(rows(1, 2))
    assert table.to_arrow()["town"].to_pylist() == ["city 1", "city 2"]
    refused(
        InvalidInputError,
        "cannot be computed from 'a', which is computed itself",
        lambda: lake.create(
            "memory://no", pa.schema({"a": pa.int64(), "b": pa.int64()}), computed={"a": "b", "b": "a"}
        ),
    )
    assert (
        lake.create(f"{memory_location.uri}-like", table.schema).inspect.columns()["computed"].null_count == 7
    )


# --- columns that change ----------------------------------------------------------------------------------------


def test_inputs_are_known_by_id(table: lake.Table) -> None:
    """spec: EVO-12"""
    table.rename_column("price", "cost of one").rename_column("at.city", "order")
    table.add_column("price", values=3.0).reorder_columns(["amount"])
    table.widen_column("amount", pa.int64()).widen_column("at.order", pa.large_string())
    table.append([{"id": 30, "cost of one": 2.5, "amount": 3, "at": {"order": "UP"}}])
    shown = dict(table.inspect.columns().select(["column", "computed"]).to_pandas().values)
    assert shown["total"] == '"cost of one" * amount'
    assert shown["town"] == 'lower(at."order")'
    last = table.to_arrow().to_pylist()[-1]
    assert (last["total"], last["town"]) == (7.5, "up")
    table.update({"price": 7.0})  # another column of that name
    assert table.count('total = "cost of one" * amount') == 17


def test_what_an_expression_needs_stays(table: lake.Table) -> None:
    """spec: EVO-12"""
    for path in ("price", "amount", "at", "at.city"):
        refused(
            InvalidInputError,
            "is computed from .* which would be gone",
            lambda path=path: table.drop_column(path),
        )
    table.drop_column("at.zip")
    refused(
        InvalidInputError,
        "'amount' cannot be made double",
        lambda: table.widen_column("amount", pa.float64()),
    )
    table.add_column("small", pa.float32(), lake.sql("id"), computed=True)
    refused(
        InvalidInputError, "'small' is computed, and rows", lambda: table.widen_column("small", pa.float64())
    )
    holds(table.drop_column("small"))
    table.drop_column("town").drop_column("at").drop_column("total").drop_column("price")
    assert table.append([{"id": 77}]).count() == 21


def test_widening_that_no_expression_survives(memory_location: Location) -> None:
    table = lake.create(memory_location.uri, pa.schema([("a", pa.int32()), ("b", pa.decimal256(76, 0))]))
    table.add_column("b4", pa.decimal256(76, 0), lake.sql("a * a * a * a * a * a"), computed=True)
    refused(LakeError, "digits", lambda: table.widen_column("a", pa.int64()))
    assert table.schema.field("a").type == pa.int32()


def test_forbidding_null(table: lake.Table) -> None:
    table.add_column("known", values=lake.sql("price IS NOT NULL"), computed=True, nullable=False)
    refused(
        InvalidInputError, "'total' is NULL in 4 rows", lambda: table.alter_column("total", nullable=False)
    )
    table.update({"price": 0.0}, "price IS NULL")
    table.alter_column("total", nullable=False)
    refused(InvalidInputError, "'total' must not be NULL", lambda: table.append([{"id": 50}]))
    refused(InvalidInputError, "'total' must not be NULL", lambda: table.update({"price": None}, "id = 1"))
    holds(table.append([{"id": 50, "price": 1.0, "amount": 1}]))


# --- what is refused ------------------------------------------------------------------------------------------


def test_values_of_ones_own(keyed: lake.Table) -> None:
    """spec: EVO-13"""
    table, own = keyed, {"id": 50, "price": 2.0, "amount": 3}
    for write in (
        table.append,
        table.upsert,
        table.overwrite,
        lambda data: table.merge(data).when_not_matched_insert().execute(),
    ):
        refused(
            InvalidInputError,
            "'total' is computed, and would be 6.0",
            lambda write=write: write([own | {"total": 7.0}]),
        )
    refused(
        InvalidInputError,
        "is computed from 'amount', which the rows",
        lambda: table.upsert([{"id": 1, "price": 1.0, "total": 1.0}]),
    )
    refused(
        InvalidInputError,
        "computed as price \\* amount, and cannot be set",
        lambda: table.update({"total": 1.0}),
    )
    merge = table.merge([own]).when_matched_update({"total": 1.0})
    refused(InvalidInputError, "cannot be set", merge.execute)
    refused(InvalidInputError, "takes no other values", lambda: table.backfill("total", 1.0))
    refused(InvalidInputError, "'total' is computed from 'price'", lambda: table.backfill("price", 1.0))
    refused(InvalidInputError, "is not computed, so its values are missing", lambda: table.backfill("v"))
    assert table.count() == 20
    table.append([own | {"total": 6.0}]).append([own | {"id": 51, "total": None}])
    table.upsert([own | {"total": 6.0}])
    assert holds(table).append(table.to_arrow().slice(0, 0)).count() == 22


def test_nan_is_what_it_is(memory_location: Location) -> None:
    table = lake.create(
        memory_location.uri, pa.schema({"a": pa.float64(), "b": pa.float64()}), computed={"b": "a * 0"}
    )
    table.append([{"a": math.inf, "b": math.nan}, {"a": -1.0, "b": 0.0}])
    assert str(table.to_arrow()["b"].to_pylist()) == "[nan, -0.0]"
    refused(InvalidInputError, "would be nan", lambda: table.append([{"a": math.inf, "b": 1.0}]))


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("random()", UnsupportedError, "RANDOM"),
        ("now()", UnsupportedError, "NOW"),
        ("current_date", UnsupportedError, "CURRENT_DATE"),
        ("_row_id + 1", InvalidInputError, "cannot read _row_id"),
        ("nothing + 1", InvalidInputError, "no column 'nothing'"),
        ("price +", InvalidInputError, "not valid SQL"),
        ("total + 1", InvalidInputError, "'total', which is computed itself"),
        ("lower(at.city)", InvalidInputError, "'x' is double"),
        (f"price + length('{4096 * 'x'}')", InvalidInputError, "bytes"),
        ("(" * 3000 + "price" + ")" * 3000, InvalidInputError, "nested too deeply"),
    ],
)
def test_expressions_that_are_refused(
    table: lake.Table, text: str, kind: type[LakeError], match: str
) -> None:
    version = table.version
    refused(kind, match, lambda: table.add_column("x", pa.float64(), lake.sql(text), computed=True))
    assert table.refresh().version == version


def test_columns_that_cannot_be_computed(table: lake.Table) -> None:
    refused(
        InvalidInputError, "only be computed by SQL", lambda: table.add_column("x", values=5, computed=True)
    )
    refused(
        InvalidInputError, "only be computed by SQL", lambda: table.add_column("x", pa.int8(), computed=True)
    )
    refused(
        UnsupportedError,
        "only plain values",
        lambda: table.add_column("x", SCHEMA.field("v").type, lake.sql("v"), computed=True),
    )
    refused(LakeError, "member of a struct", lambda: table.add_column("at.x", values=TOTAL, computed=True))


# --- the property ---------------------------------------------------------------------------------------------

_OPERATIONS: dict[str, Callable[[lake.Table, int], object]] = {
    "append": lambda table, n: table.append([{"id": 100 + n, "a": n}, {"id": 200 + n, "b": n}]),
    "set a": lambda table, n: table.update({"a": lake.sql("a + b")}, f"id % 3 = {n % 3}"),
    "set both": lambda table, n: table.update({"a": n, "b": lake.sql("a")}, f"id < {n}"),
    "set neither": lambda table, n: table.update({"c": n}, f"id > {n}"),
    "upsert": lambda table, n: table.upsert([{"id": n, "b": n}, {"id": n + 1, "b": None}], on="id"),
    "delete": lambda table, n: table.delete(f"id = {n}"),
    "compact": lambda table, n: table.compact(1000),
    "patch": lambda table, n: table.set_properties({"write.update-strategy": "patch"}),
    "rewrite": lambda table, n: table.set_properties({"write.update-strategy": "rewrite"}),
    "widen": lambda table, n: table.widen_column("b", pa.int64()),
    "swap names": lambda table, n: _swapped(table),
    "restore": lambda table, n: table.restore(max(3, table.version - n)),
    "finish": lambda table, n: table.backfill("sum"),
}


def _swapped(table: lake.Table) -> None:
    with table.transaction() as tx:
        for name, new in (("a", "x"), ("b", "a"), ("x", "b")):
            tx.rename_column(name, new)


@given(steps=st.lists(st.tuples(st.sampled_from(sorted(_OPERATIONS)), st.integers(0, 9)), max_size=8))
@settings(max_examples=20, deadline=None)
def test_no_history_makes_a_row_wrong(steps: list[tuple[str, int]]) -> None:
    """spec: EVO-13"""
    quick = Surroundings(sleep=lambda _seconds: None)
    schema = pa.schema({"id": pa.int64(), "a": pa.int64(), "b": pa.int32(), "c": pa.int64()})
    table = lake.create(
        "memory://computed-model", schema, properties={"write.fragment-rows": 4}, surroundings=quick
    )
    try:
        table.append([{"id": i, "a": i, "b": None if i == 3 else 2 * i} for i in range(9)])
        table.add_column("sum", pa.float64(), lake.sql("a + b"), computed=True)
        for name, number in steps:
            _OPERATIONS[name](table, number)
            found = table.refresh().to_arrow().to_pylist()
            assert all(
                row["sum"] == (None if row["a"] is None or row["b"] is None else row["a"] + row["b"])
                for row in found
            )
            assert expression_of(table.snapshot.schema.field("sum")) is not None
        assert table.verify().problems == []
    finally:
        forget_memory("computed-model")
