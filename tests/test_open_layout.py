"""The open layout: one Parquet file a fragment that anybody reads, through everything that happens to a table."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_samples import DIMENSION, SCHEMA, rows, vector
from samples import every_type
from test_types_roundtrip import assert_same

import lake_format as lake
from lake_engines.files.parquet_meta import parse_footer, parse_pages
from lake_format.open_layout import OpenLayout
from lake_format.positions import deleted_positions
from lake_format.schema import field_id, walk_fields
from lake_format.store.local import LocalStore
from lake_format.table import Table


def opened(uri: Path | str, *ids: int, **options: Any) -> Table:
    """A table in the open layout, ten rows a fragment."""
    properties = {"write.fragment-rows": 10, **options.pop("properties", {})}
    table = lake.create(str(uri), SCHEMA, layout="open", properties=properties, **options)
    return table.append(rows(*ids)) if ids else table


def obstacles(table: Table) -> list[str | None]:
    layout = OpenLayout(table.snapshot.version)
    return [layout.obstacle(fragment) for fragment in table.snapshot.fragments.fragments()]


def by_id(table: Table) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in table.scan([*table.schema.names, "_row_id"]).read_all().to_pylist()}


def stored(table: Table) -> pa.Table:
    """The live rows as a reader finds them that knows the files and the deletions, and nothing else."""
    parts = []
    for fragment in table.snapshot.fragments.fragments():
        (group,) = fragment.groups
        found = pq.read_table(f"{table.uri.removeprefix('file://')}/{group.path}")
        gone = deleted_positions(fragment).tolist()
        parts.append(found.take([row for row in range(fragment.row_count) if row not in gone]))
    return pa.concat_tables(parts)


# --- files ------------------------------------------------------------------------------------------------------


def test_a_fragment_is_one_file_that_any_reader_reads(tmp_path: Path) -> None:
    """spec: PQT-5, PQT-7"""
    import duckdb
    import polars

    table = opened(tmp_path / "open", *range(25))
    assert table.properties["write.layout"] == "open"
    assert obstacles(table) == [None] * 3
    assert "open-layout" in table.snapshot.version.required_features
    assert {path.suffix for path in (tmp_path / "open" / "data").iterdir()} == {".parquet"}
    expected = [(row["id"], row["name"], row["vec"]) for row in rows(*range(25))]
    glob = f"{tmp_path}/open/data/*.parquet"
    read = duckdb.sql(f"SELECT id, name, vec FROM '{glob}' ORDER BY id").fetchall()
    assert [(one, name, list(vec)) for one, name, vec in read] == expected
    framed = polars.read_parquet(glob).sort("id")
    assert [(row["id"], row["name"], list(row["vec"])) for row in framed.to_dicts()] == expected
    (path, *_) = (tmp_path / "open" / "data").iterdir()
    written = pq.read_metadata(path).schema.to_arrow_schema()
    assert [field_id(one) for one in walk_fields(written)] == [
        field_id(one) for one in walk_fields(table.snapshot.schema)
    ]


def test_vectors_are_written_for_fast_reading(tmp_path: Path) -> None:
    """spec: PQT-6"""
    wide = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 2048))])
    values = np.arange(700 * 2048, dtype="f4")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values), 2048)
    table = lake.create(str(tmp_path / "wide"), wide, layout="open")
    table.append(pa.table([pa.array(range(700)), vectors], wide))
    (path,) = (tmp_path / "wide" / "data").iterdir()
    chunk = pq.read_metadata(path).row_group(0).column(1)
    assert (chunk.compression, set(chunk.encodings) & {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}) == (
        "UNCOMPRESSED",
        set(),
    )
    assert not chunk.is_stats_set
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    meta = parse_footer(data[-8 - length : -8], str(path), len(data))
    leaf = meta.groups[0].chunks[1]
    index = data[leaf.index_offset : leaf.index_offset + leaf.index_length]
    pages = parse_pages(index, leaf, 700, str(path))
    assert pages.lengths.max() <= (1 << 20) + 4096
    assert table.take([699]).to_pylist()[0]["vec"] == values[-2048:].tolist()


class Counting:
    """A store that counts the bytes read in ranges, and gives nothing away to be mapped."""

    def __init__(self, root: Path) -> None:
        self._inner, self.read = LocalStore(root), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def local_path(self, path: str) -> None:
        return None

    def get_ranges(self, ranges: Any) -> list[bytes]:
        found = self._inner.get_ranges(ranges)
        self.read += sum(map(len, found))
        return found


@pytest.mark.parametrize("remote", [False, True])
def test_vectors_are_read_where_they_lie(tmp_path: Path, remote: bool) -> None:
    """spec: PQT-5"""
    schema = pa.schema(
        [("id", pa.int64()), ("v", pa.list_(pa.float32(), 4)), ("h", pa.list_(pa.float16(), 2))]
    )
    count = 140_000  # two row groups
    values = np.random.default_rng(3).standard_normal((count, 4)).astype("f4")
    half = (np.arange(2 * count) % 1000).astype("f2")
    columns = [
        pa.array(range(count)),
        pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4),
        pa.FixedSizeListArray.from_arrays(pa.array(half), 2),
    ]
    lake.create(str(tmp_path / "t"), schema, layout="open").append(pa.table(columns, schema))
    store = Counting(tmp_path / "t")
    table = lake.open(str(tmp_path / "t"), store=store) if remote else lake.open(str(tmp_path / "t"))
    places = np.random.default_rng(4).integers(0, count, 300)
    places[:4] = [131_071, 131_072, 0, count - 1]
    table.take([0], columns=["v"])
    store.read = 0
    assert table.take([5, count - 1], columns=["v"])["v"].to_pylist() == values[[5, count - 1]].tolist()
    assert store.read == (16 if remote else 0)  # the last row's came with the footer
    assert table.take(places, columns=["v"])["v"].to_pylist() == values[places].tolist()
    assert table.take(places, columns=["h"])["h"].to_pylist() == half.reshape(-1, 2)[places].tolist()
    query = [0.1, 0.2, -0.3, 0.4]
    true = np.argsort(((values - np.array(query, "f4")) ** 2).sum(1))[:5].tolist()
    found = table.search(query, column="v", k=5, exact=True, select=["id"]).to_arrow()
    assert found["id"].to_pylist() == true


@pytest.mark.parametrize("share", [1, 3, 700])
def test_vectors_between_null_ones_are_read_where_they_lie(tmp_path: Path, share: int) -> None:
    """spec: PQT-5"""
    schema = pa.schema([("id", pa.int64()), ("v", pa.list_(pa.float32(), 4))])
    count = 3000
    values = np.random.default_rng(3).standard_normal((count, 4)).astype("f4")
    gone = np.arange(count) % share == share // 2
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4, mask=pa.array(gone))
    data = pa.table([pa.array(range(count)), column], schema)
    lake.create(str(tmp_path / "t"), schema, layout="open").append(data)
    table = lake.open(str(tmp_path / "t"))
    places = np.random.default_rng(4).integers(0, count, 900)
    wanted = [None if gone[place] else values[place].tolist() for place in places]
    assert table.take(places, columns=["v"])["v"].to_pylist() == wanted
    query = np.array([0.1, 0.2, -0.3, 0.4], "f4")
    near = np.argsort(((values - query) ** 2).sum(1), kind="stable").tolist()
    for _ in range(2):  # the first search finds out which vectors are NULL
        for low, high in ((0, count), (511, 1031)):
            true = [row for row in near if low <= row < high and not gone[row]][:5]
            where = f"id >= {low} AND id < {high} AND v IS NOT NULL"
            found = table.search(query, k=5, exact=True, where=where, select=["id"]).to_arrow()
            assert found["id"].to_pylist() == true
        assert table.take(places, columns=["v"])["v"].to_pylist() == wanted


def test_a_null_inside_a_vector_is_refused(tmp_path: Path) -> None:
    """spec: PQT-5, VEC-7"""
    table = opened(tmp_path / "open")
    elements = pa.array([*vector(1), *vector(2)[:-1], None], pa.float32())
    broken = pa.FixedSizeListArray.from_arrays(elements, DIMENSION)
    batch = pa.Table.from_pylist(rows(1, 2), SCHEMA).set_column(3, SCHEMA.field("vec"), broken)
    with pytest.raises(lake.InvalidInputError, match="'vec' has a NULL element in row 1, element 7"):
        table.append(batch)
    assert table.refresh().count() == 0
    assert list((tmp_path / "open" / "data").iterdir()) == []


def test_every_type_comes_back(tmp_path: Path) -> None:
    data = every_type(40)
    table = lake.create(str(tmp_path / "types"), data.schema, layout="open").append(data)
    assert_same(table.to_arrow(), data)
    picked = pa.concat_tables([data.slice(row, 1) for row in (7, 39, 0)])
    assert_same(table.take([7, 39, 0]), picked)
    assert table.verify().problems == []


def test_a_wrong_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lake.InvalidInputError, match=r"'write.layout' is 'closed'.*'split' or 'open'"):
        lake.create(str(tmp_path / "a"), SCHEMA, layout="closed")
    with pytest.raises(lake.InvalidInputError, match=r"the layout is 'open', and the property.*'split'"):
        lake.create(str(tmp_path / "a"), SCHEMA, layout="open", properties={"write.layout": "split"})


# --- the life of a table ------------------------------------------------------------------------------------------


def test_row_changes_leave_one_file_a_fragment(tmp_path: Path) -> None:
    """spec: PQT-7"""
    table = opened(tmp_path / "open", *range(25), key="id")
    assert table.update({"price": -1.0}, where="id < 3").strategy == "move"
    table.upsert(rows(2, 30, name="up"))
    table.delete("id = 7")
    assert obstacles(table) == [None] * len(obstacles(table))
    assert sorted(stored(table)["id"].to_pylist()) == sorted(by_id(table)) == [*range(7), *range(8, 25), 30]
    explained = table.plan_update({"price": 0.0}, where="id = 4")
    assert explained.strategy == "move"


def test_what_breaks_a_fragment_up_compaction_mends(tmp_path: Path) -> None:
    """spec: PQT-7"""
    table = opened(tmp_path / "open", *range(25)).create_index("vec")
    table.add_column("twice", values=lake.sql("price * 2"))
    table.set_properties({"write.update-strategy": "patch"})
    table.update({"vec": vector(99)}, where="id IN (1, 12)")
    assert obstacles(table) == ["has patches over its files", "has patches over its files", "lies in 2 files"]
    nearest = table.search(vector(99), k=2, select=["id", "_distance"]).to_arrow()
    assert (sorted(nearest["id"].to_pylist()), nearest["_distance"].to_pylist()) == ([1, 12], [0.0, 0.0])
    before = by_id(table)
    report = table.compact()
    assert report.fragments_removed == 3
    assert obstacles(table) == [None] * 3
    assert by_id(table) == before
    assert table.compact().commits == 0
    again = table.search(vector(99), k=2, select=["id", "_distance"]).to_arrow()
    assert sorted(again["id"].to_pylist()) == [1, 12]
    assert table.verify().problems == []


def test_compaction_opens_a_table_whose_property_was_set_later(tmp_path: Path) -> None:
    table = lake.create(str(tmp_path / "t"), SCHEMA, properties={"write.fragment-rows": 10}).append(
        rows(*range(20))
    )
    before = by_id(table)
    assert table.compact().commits == 0
    table.set_properties({"write.layout": "open"})
    assert obstacles(table) == ["lies in 2 files"] * 2
    table.compact()
    assert (obstacles(table), by_id(table)) == ([None] * 2, before)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        (lambda table: table.add_column("c", pa.int32()), None),
        (
            lambda table: table.add_column("c", values=7),
            "has no values of column 'c' in its file, where others",
        ),
        (lambda table: table.alter_column("n", type=pa.int64()), None),
        (
            lambda table: table.alter_column("n", type=pa.float64()),
            "holds column 'n' as int32, not as double",
        ),
        (lambda table: table.alter_column("u", type=pa.uint32()), "holds column 'u' as uint8, not as uint32"),
        (lambda table: table.alter_column("d", type=pa.timestamp("us")), "holds column 'd' as date32"),
        (lambda table: table.alter_column("s", type=pa.large_string()), None),
        (lambda table: table.rename_column("n", "m"), None),
        (lambda table: table.drop_column("n"), None),
        (lambda table: table.add_column("p.z", pa.int32()), None),
    ],
)
def test_schema_changes_that_others_follow_and_those_they_do_not(
    tmp_path: Path, change: Any, obstacle: str | None
) -> None:
    schema = pa.schema(
        [
            ("n", pa.int32()),
            ("u", pa.uint8()),
            ("d", pa.date32()),
            ("s", pa.string()),
            ("p", pa.struct([("x", pa.int32())])),
        ]
    )
    table = lake.create(str(tmp_path / "t"), schema, layout="open")
    table.append([{"n": 1, "u": 2, "d": None, "s": "x", "p": {"x": 3}}])
    change(table)
    (found,) = obstacles(table)
    assert (found is None) if obstacle is None else found.startswith(obstacle)
    before = table.to_arrow().to_pylist()
    table.compact()
    assert (obstacles(table), table.to_arrow().to_pylist()) == ([None], before)


@pytest.mark.parametrize("uri", ["disk", "memory://open-layout-life"])
def test_both_layouts_hold_the_same_whatever_happens(tmp_path: Path, uri: str) -> None:
    """spec: PQT-5"""
    chance = random.Random(7)
    place = str(tmp_path / "open") if uri == "disk" else uri
    table = opened(place, *range(30))
    other = lake.create(str(tmp_path / "split"), SCHEMA, properties={"write.fragment-rows": 10}).append(
        rows(*range(30))
    )
    new_id = 30
    for step in range(14):
        low = chance.randrange(new_id)
        value, where = step / 4, f"id BETWEEN {low} AND {low + 3}"
        for one in (table, other):
            match step % 7:
                case 0:
                    one.append(rows(new_id, new_id + 1, vec=lambda i: None if i % 2 else vector(i)))
                case 1:
                    one.update({"price": value}, where=where)
                case 2:
                    one.delete(where)
                case 3:
                    one.update({"vec": vector(step), "name": None}, where=where)
                case 4:
                    one.compact()
                case 5:
                    one.upsert(rows(low, new_id + 5, name="upserted"), on="id")
                case 6:
                    one.update({"vec": None}, where=f"id = {low + 1}")
        new_id += 6
        assert by_id(table) == by_id(other), step
        found, true = (
            one.search(vector(3), k=5, where="price >= 2", select=["id", "_distance"], exact=True).to_arrow()
            for one in (table, other)
        )
        assert found.to_pylist() == true.to_pylist(), step
    for one in (table, other):
        one.create_index("vec")
    assert (
        table.search(vector(3), k=5, select=["id"]).to_arrow()["id"].to_pylist()
        == other.search(vector(3), k=5, select=["id"]).to_arrow()["id"].to_pylist()
    )
    assert table.verify().problems == []


def test_damage_is_found(tmp_path: Path) -> None:
    table = opened(tmp_path / "open", *range(5))
    (path,) = (tmp_path / "open" / "data").iterdir()
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    (problem,) = table.verify().problems
    assert path.name in problem.path
