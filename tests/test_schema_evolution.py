"""Columns added, dropped, renamed, reordered and altered: what readers see, at the newest version and at old ones."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest
from conftest import Location

import lake_format as lake
from lake_format.errors import ConflictError, InvalidInputError, UnsupportedError
from lake_format.schema import field_id, walk_fields
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int32(), False),
        pa.field(
            "s",
            pa.struct(
                [
                    ("a", pa.int8()),
                    ("b", pa.string()),
                    ("deep", pa.struct([("x", pa.float32()), ("y", pa.bool_())])),
                ]
            ),
        ),
        pa.field("l", pa.list_(pa.struct([("p", pa.int16()), ("q", pa.string())]))),
        pa.field("f", pa.list_(pa.struct([("w", pa.int8())]), 2)),
        pa.field("m", pa.map_(pa.string(), pa.struct([("n", pa.int32())]))),
        pa.field("v", pa.list_(pa.float16(), 3)),
    ]
)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": one,
            "s": None
            if one % 5 == 4
            else {"a": one, "b": f"b{one}", "deep": None if one % 2 else {"x": one / 2, "y": one % 4 == 0}},
            "l": [{"p": one, "q": "q"}, None][: one % 3] if one % 4 else None,
            "f": None if one % 3 == 1 else [{"w": one}, None],
            "m": [(f"k{one}", {"n": one})] if one % 3 else [],
            "v": None if one % 4 == 3 else [one, one + 1, one + 2],
        }
        for one in range(count)
    ]


@pytest.fixture
def table(memory_location: Location) -> lake.Table:
    found = lake.create(memory_location.uri, SCHEMA, properties={"write.fragment-rows": 7})
    return found.append(pa.Table.from_pylist(rows(20), schema=SCHEMA))


def test_nested_members_are_matched_by_id_at_every_depth(table: lake.Table) -> None:
    """spec: EVO-1, EVO-2, EVO-3"""
    table.rename_column("s.b", "a_new").drop_column("s.a").rename_column(
        "s.a_new", "a"
    )  # the dropped one's name
    table.add_column("s.z", pa.int64()).add_column("s.deep.n", pa.string()).rename_column("s.deep.y", "why")
    table.reorder_columns(["z", "deep"], within="s").reorder_columns(["n", "why"], within="s.deep")
    table.add_column("l.item.new", pa.date32()).rename_column("l.item.q", "kyu").widen_column(
        "l.item.p", pa.int64()
    )
    table.add_column("f.item.new", pa.int8()).widen_column("f.element.w", pa.int32())
    table.rename_column("m.value.n", "number").add_column("m.value.more", pa.bool_())
    table.widen_column("s.deep.x", pa.float64()).rename_column("s", "struct").rename_column("id", "key")
    expected = [
        {
            "key": row["id"],
            "struct": row["s"]
            and {
                "z": None,
                "deep": row["s"]["deep"]
                and {"n": None, "why": row["s"]["deep"]["y"], "x": row["s"]["deep"]["x"]},
                "a": row["s"]["b"],
            },
            "l": row["l"] and [one and {"p": one["p"], "kyu": one["q"], "new": None} for one in row["l"]],
            "f": row["f"] and [one and {"w": one["w"], "new": None} for one in row["f"]],
            "m": [(key, {"number": value["n"], "more": None}) for key, value in row["m"]],
            "v": row["v"],
        }
        for row in rows(20)
    ]
    found = table.to_arrow()
    found.validate(full=True)
    assert found.to_pylist() == expected
    assert table.take([19, 3, 3]).to_pylist() == [expected[19], expected[3], expected[3]]
    assert table.scan(["struct"], "key > 12").read_all()["struct"].to_pylist() == [
        row["struct"] for row in expected[13:]
    ]
    assert table.count("struct.deep.why") == sum(
        bool(r["struct"] and (r["struct"]["deep"] or {}).get("why")) for r in expected
    )
    assert table.count("struct.z IS NULL") == 20
    new = {
        **expected[1],
        "key": 99,
        "struct": {"z": 5, "deep": {"n": "n", "why": True, "x": 1e300}, "a": "a"},
    }
    assert table.append(pa.Table.from_pylist([new], schema=table.schema)).to_arrow().to_pylist() == [
        *expected,
        new,
    ]


def test_older_versions_keep_their_schema(table: lake.Table) -> None:
    """spec: EVO-1"""
    before = table.version
    table.drop_column("s").widen_column("id", pa.int64()).add_column("new", pa.string()).rename_column(
        "l", "list"
    )
    table.append([{"id": 1 << 40, "new": "x"}])
    old = lake.open(table.uri, version=before)
    assert old.schema.equals(SCHEMA)
    assert old.to_arrow().to_pylist() == pa.Table.from_pylist(rows(20), schema=SCHEMA).to_pylist()
    assert table.schema.names == ["id", "list", "f", "m", "v", "new"]
    assert lake.open(table.uri).schema.equals(table.schema)


def test_changes_without_values_touch_no_file(memory_location: Location) -> None:
    """spec: EVO-1 — whatever the table's size, a change of columns writes its version and nothing else."""
    store = MeteredStore(memory_location.store())
    table = lake.create(memory_location.uri, SCHEMA, store=store)
    table.append(pa.Table.from_pylist(rows(20) * 100, schema=SCHEMA))
    files = [info.path for info in store.list("data/")]
    before = store.usage()
    table.add_column("n", pa.int64()).rename_column("s.b", "bee").drop_column("l").reorder_columns(["v"])
    table.widen_column("id", pa.int64()).alter_column("f", comment="pairs", nullable=True)
    spent = store.usage().since(before)
    assert [info.path for info in store.list("data/")] == files
    assert spent.bytes_written < 6 * 2 * 12_000  # six versions and their copies at `latest`
    assert "open_writer" not in spent.requests


def test_a_dropped_name_that_comes_back_shows_no_old_data(table: lake.Table) -> None:
    """spec: EVO-3, SCH-3"""
    old_id = field_id(table.snapshot.schema.field("v"))
    table.drop_column("v").add_column("v", pa.list_(pa.float16(), 3))
    assert field_id(table.snapshot.schema.field("v")) > old_id
    assert table.to_arrow()["v"].null_count == 20
    table.drop_column("s.a").add_column("s.a", pa.int8())
    assert table.count("s.a IS NULL") == 20
    everything = [field_id(one) for one in walk_fields(table.snapshot.schema)]
    assert len(set(everything)) == len(everything)


def test_dropping_a_column_drops_its_indexes(memory_location: Location) -> None:
    schema = pa.schema(
        [("id", pa.int64()), ("v", pa.list_(pa.float32(), 2)), ("w", pa.list_(pa.float32(), 2))]
    )
    table = lake.create(memory_location.uri, schema)
    table.append([{"id": one, "v": [one, 0], "w": [0, one]} for one in range(50)])
    table.create_index("v").create_index("w")
    before = table.version
    table.rename_column("w", "ww")
    assert table.inspect.indexes()["column"].to_pylist() == ["v", "ww"]
    assert table.search([0, 7.2], 1, column="ww", select=["id"]).to_arrow()["id"].to_pylist() == [7]
    table.drop_column("v")
    assert table.inspect.indexes()["column"].to_pylist() == ["ww"]
    table.add_column("v", pa.list_(pa.float32(), 2))
    assert table.search([0, 0], 1, column="v", select=["id"]).to_arrow().num_rows == 0
    old = lake.open(table.uri, version=before)
    assert old.search([7.2, 0], 1, column="v", select=["id"]).to_arrow()["id"].to_pylist() == [7]


def test_an_indexed_vector_column_can_be_widened(memory_location: Location) -> None:
    table = lake.create(
        memory_location.uri, pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float16(), 4))])
    )
    table.append([{"id": one, "v": [one / 8, one, -one, 1]} for one in range(300)]).create_index("v")
    table.widen_column("v", pa.list_(pa.float32(), 4))
    table.append([{"id": 300, "v": [0.1, 300, -300, 1]}])
    query = [[1.1, 9, -9, 1], [0.1, 300, -300, 1]]
    assert table.search(query, 1, select=["id"]).to_arrow()["id"].to_pylist() == [9, 300]
    exact = table.search(query, 2, select=["id", "v"], exact=True).to_arrow()
    assert exact["id"].to_pylist() == [9, 8, 300, 298]
    assert exact["v"].to_pylist()[2] == pytest.approx([0.1, 300, -300, 1])
    assert table.take([300, 0])["v"].to_pylist()[1] == [0, 0, 0, 1]


def test_vectors_of_two_widths_over_the_network(ranged_location: Location) -> None:
    options = {"storage_options": ranged_location.storage_options}
    schema = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float16(), 4))])
    table = lake.create(ranged_location.uri, schema, **options)
    table.append([{"id": one, "v": [one] * 4} for one in range(40)]).create_index("v")
    table.widen_column("v", pa.list_(pa.float32(), 4))
    table.append([{"id": 40, "v": [40.25] * 4}])
    found = (
        lake.open(ranged_location.uri, **options).search([39.9] * 4, 3, select=["id", "_distance"]).to_arrow()
    )
    assert found["id"].to_pylist() == [40, 39, 38] or found["id"].to_pylist() == [40, 39, 38]
    assert found["_distance"].to_pylist() == pytest.approx([0.7, 1.8, 3.8], abs=1e-3)


def test_null_can_be_forbidden_once_there_is_none(table: lake.Table) -> None:
    """spec: EVO-5"""
    with pytest.raises(InvalidInputError, match="column 'v' is NULL in 5 rows"):
        table.alter_column("v", nullable=False)
    with pytest.raises(InvalidInputError, match=r"'s\.deep' is NULL in"):
        table.alter_column("s.deep", nullable=False)
    table.alter_column("s.b", nullable=False)  # rows without a struct have no member to be NULL
    table.delete("v IS NULL")
    table.alter_column("v", nullable=False)
    assert not table.schema.field("v").nullable
    with pytest.raises(InvalidInputError, match="must not be NULL"):
        table.append([{"id": 1, "v": None}])
    table.alter_column("v", nullable=True).append([{"id": 1, "v": None}])
    with pytest.raises(UnsupportedError, match="lies in a list"):
        table.alter_column("l.item.p", nullable=False)


def test_comments_and_properties(table: lake.Table) -> None:
    table.alter_column("s.b", comment="a text", properties={"owner": "me", "unit": "kg"})
    table.alter_column("id", comment="the key").alter_column("s.b", properties={"unit": None})
    again = lake.open(table.uri)
    assert again.schema.field("id").metadata == {b"comment": b"the key"}
    assert again.schema.field("s").type.field("b").metadata == {b"comment": b"a text", b"owner": b"me"}
    assert again.to_arrow().schema.field("id").metadata == {b"comment": b"the key"}
    table.alter_column("s.b", comment="", properties={"owner": None})
    assert not table.schema.field("s").type.field("b").metadata
    with pytest.raises(InvalidInputError, match="cannot be named"):
        table.alter_column("id", properties={"PARQUET:field_id": "7"})


def test_reordering(table: lake.Table) -> None:
    assert table.reorder_columns(["v", "m"]).schema.names == ["v", "m", "id", "s", "l", "f"]
    table.append([{"id": 7, "v": [1, 2, 3]}])
    assert table.scan(limit=1).read_all().column_names == ["v", "m", "id", "s", "l", "f"]
    for wrong in (["v", "v"], "v"):
        with pytest.raises(InvalidInputError, match="list of different names"):
            table.reorder_columns(wrong)
    with pytest.raises(InvalidInputError, match="no struct"):
        table.reorder_columns(["x"], within="id")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda t: t.drop_column("nope"), "no column 'nope'"),
        (lambda t: t.drop_column("s.dee"), "did you mean 'deep'"),
        (lambda t: t.drop_column("l.item"), "is what column 'l' is made of"),
        (lambda t: t.rename_column("m.key", "kee"), "is what column 'm' is made of"),
        (lambda t: t.rename_column("id", "V"), "differ in more than case"),
        (lambda t: t.rename_column("s.a", "b"), "'b'"),
        (lambda t: t.rename_column("id", "_row_id"), "reserved"),
        (lambda t: t.rename_column("id", ""), "without a name"),
        (lambda t: t.rename_column("id", 7), "is text"),
        (lambda t: t.add_column("id", pa.int8()), "already"),
        (lambda t: t.add_column("ID", pa.int8()), "differ in more than case"),
        (lambda t: t.add_column("x"), "type of column 'x' is missing"),
        (lambda t: t.add_column("x", "int8"), "must be a pyarrow.DataType"),
        (lambda t: t.add_column("id.x", pa.int8()), "cannot get a member"),
        (lambda t: t.add_column("x", pa.int8(), nullable=False), "would be NULL in 20 rows"),
        (lambda t: t.add_column("x", pa.month_day_nano_interval()), "tables cannot hold"),
        (lambda t: t.add_column("x", pa.list_(pa.string_view())), "inside"),
        (lambda t: t.widen_column("s", pa.int8()), "followed by a dot"),
        (lambda t: t.widen_column("id", "int64"), "must be a pyarrow.DataType"),
        (lambda t: t.drop_column(("s", "")), "no name of a column"),
        (lambda table: table.alter_column("id"), "nothing of column 'id' is to be altered"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_happens(table: lake.Table, action: Any, message: str) -> None:
    before = table.version
    with pytest.raises(InvalidInputError, match=message):
        action(table)
    assert table.refresh().version == before


def test_the_last_column_stays(memory_location: Location) -> None:
    table = lake.create(memory_location.uri, pa.schema([("s", pa.struct([("a", pa.int8())]))]))
    with pytest.raises(InvalidInputError, match="at least one column"):
        table.drop_column("s")
    with pytest.raises(InvalidInputError, match="nothing inside"):
        table.drop_column("s.a")


def test_names_with_dots(memory_location: Location) -> None:
    table = lake.create(
        memory_location.uri, pa.schema([("a.b", pa.int8()), ("a", pa.struct([("b", pa.int8())]))])
    )
    table.append([{"a.b": 1, "a": {"b": 2}}])
    table.rename_column(("a", "b"), "c").rename_column("a.b", "d").add_column(("x.y",), pa.int8())
    assert table.to_arrow().to_pylist() == [{"d": 1, "a": {"c": 2}, "x.y": None}]


def test_an_old_version_cannot_be_changed(table: lake.Table) -> None:
    old = lake.open(table.uri, version=1)
    for action in (
        lambda: old.add_column("x", pa.int8()),
        lambda: old.drop_column("v"),
        lambda: old.rename_column("v", "w"),
        lambda: old.reorder_columns(["v"]),
        lambda: old.widen_column("id", pa.int64()),
        lambda: old.backfill("id", 1),
    ):
        with pytest.raises(UnsupportedError, match="cannot be written"):
            action()


# --- at the same time ---------------------------------------------------------------------------------------------


def test_changes_of_different_columns_commute(table: lake.Table) -> None:
    """spec: EVO-3 — two columns added at once get different ids, and each keeps its values."""
    other = lake.open(table.uri)
    table.add_column("one", values=1).add_column("x", pa.int8())
    other.add_column("two", values=2)
    other.refresh()
    third, fourth = lake.open(table.uri), lake.open(table.uri)
    third.rename_column("v", "vec").widen_column("s.a", pa.int64())
    fourth.add_column("s.new", pa.int8())
    fifth = lake.open(table.uri, version=None)
    fifth.drop_column("l")
    fourth.append([{"id": 77}])
    final = lake.open(table.uri)
    assert final.schema.names == ["id", "s", "f", "m", "vec", "one", "x", "two"]
    assert set(final.to_arrow()["one"].to_pylist()[:20]) == {1}
    assert set(final.to_arrow()["two"].to_pylist()[:20]) == {2}
    assert final.take([20]).to_pylist()[0]["two"] is None
    everything = [field_id(one) for one in walk_fields(final.snapshot.schema)]
    assert len(set(everything)) == len(everything)
    assert max(everything) < final.snapshot.version.next_field_id


def test_stale_tables_meet_conflicts(table: lake.Table) -> None:
    def conflict(first: Any, second: Any) -> None:
        stale, before = lake.open(table.uri), lake.open(table.uri)
        first(before)
        version = before.version
        with pytest.raises(ConflictError):
            second(stale)
        assert table.refresh().version == version

    conflict(lambda t: t.add_column("n", pa.int8()), lambda t: t.add_column("N", pa.int16()))
    conflict(lambda t: t.rename_column("id", "key"), lambda t: t.rename_column("id", "ident"))
    conflict(lambda t: t.rename_column("m", "x"), lambda t: t.add_column("x", pa.int8()))
    conflict(lambda t: t.drop_column("s"), lambda t: t.rename_column("s.b", "bee"))
    conflict(lambda t: t.widen_column("key", pa.int64()), lambda t: t.drop_column("key"))
    conflict(lambda t: t.add_column("l.item.z", pa.int8()), lambda t: t.add_column("l.item.z", pa.int8()))


def test_null_forbidden_while_others_write_null(table: lake.Table) -> None:
    """The check is made again over rows it had not seen."""
    table.delete("v IS NULL")
    stale = lake.open(table.uri)
    table.append([{"id": 1, "v": None}])
    with pytest.raises(ConflictError, match="'v' is NULL in 1 rows"):
        stale.alter_column("v", nullable=False)
    table.delete("v IS NULL")
    stale = lake.open(table.uri)
    table.append([{"id": 1, "v": [1, 2, 3]}])
    stale.alter_column("v", nullable=False)
    writer = lake.open(table.uri, version=None)
    late = lake.open(table.uri)
    late.refresh().alter_column("f", comment="x")
    assert not writer.refresh().schema.field("v").nullable


def test_rows_written_before_a_rule_are_refused_after_it(table: lake.Table) -> None:
    table.delete("v IS NULL")
    stale = lake.open(table.uri)
    table.alter_column("v", nullable=False)
    with pytest.raises(ConflictError):
        stale.append([{"id": 5, "v": None}])
    assert table.refresh().to_arrow()["v"].null_count == 0


def test_rows_for_the_narrow_type_land_after_the_widening(table: lake.Table) -> None:
    stale = lake.open(table.uri)
    table.widen_column("id", pa.int64()).rename_column("id", "key").drop_column("m")
    stale.append([{"id": 5, "v": [1, 2, 3]}])
    assert table.refresh().to_arrow().to_pylist()[-1]["key"] == 5
    assert stale.schema.equals(table.schema)
    assert stale.count("key = 5") == 2
    assert stale.search([1, 2, 3], 1, select=["key"]).to_arrow().num_rows == 1


def test_dates_compare_across_the_widening(memory_location: Location) -> None:
    table = lake.create(memory_location.uri, pa.schema([("d", pa.date32())]))
    table.append([{"d": dt.date(2024, 2, 29)}]).widen_column("d", pa.timestamp("us"))
    table.append([{"d": dt.datetime(2024, 2, 29, 12)}])
    assert table.count("d > '2024-02-29'") == 1
    assert table.count("d >= '2024-02-29'") == 2
