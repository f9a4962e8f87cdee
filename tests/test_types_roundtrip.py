"""Every Arrow type a table may have comes back exactly, NULLs included, by every way of reading."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from samples import every_type, still_surroundings
from values import normal, raw

import lake_format as lake
from lake_format.errors import InvalidInputError

ROWS = 7
DATA = every_type(ROWS)


def assert_same(found: pa.Table, expected: pa.Table) -> None:
    found.validate(full=True)
    assert found.schema.equals(expected.schema, check_metadata=True)
    for name in expected.column_names:
        assert normal(raw(found.column(name))) == normal(raw(expected.column(name))), name


def picked(rows: list[int]) -> pa.Table:
    """Rows of the data; pyarrow's own take lacks string views."""
    return pa.concat_tables([DATA.slice(row, 1) for row in rows])


@pytest.fixture(scope="module", params=["vortex", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> lake.Table:
    uri = str(tmp_path_factory.mktemp(request.param) / "t")
    table = lake.create(uri, DATA.schema, properties={"write.scalar-format": request.param})
    table.append(DATA.slice(0, 3)).append(DATA.slice(3))
    return lake.open(uri)


def test_whole_table(table: lake.Table) -> None:
    """spec: SCH-1, SCH-7, SCH-8"""
    assert_same(table.to_arrow(), DATA)
    assert table.schema.equals(DATA.schema, check_metadata=True)


def test_one_column_at_a_time(table: lake.Table) -> None:
    """spec: SCH-8"""
    for name in DATA.column_names:
        assert_same(table.scan([name]).read_all(), DATA.select([name]))


def test_take_in_any_order_with_repeats(table: lake.Table) -> None:
    """spec: SCH-8, SCH-6"""
    order = [6, 0, 3, 3, 1]
    assert_same(table.take(order), picked(order))


def test_filtered_scan(table: lake.Table) -> None:
    """spec: SCH-8"""
    name = next(
        name for name, kind in zip(DATA.column_names, DATA.schema.types, strict=True) if kind == pa.bool_()
    )
    kept = [row for row, value in enumerate(DATA.column(name).to_pylist()) if value]
    assert_same(table.scan(where=f"{name} = true").read_all(), picked(kept))


def test_null_counts_by_filter(table: lake.Table) -> None:
    for name, kind in zip(DATA.column_names, DATA.schema.types, strict=True):
        assert table.count(f"{name} IS NULL") == DATA.column(name).null_count, kind


@pytest.mark.parametrize(
    "extra",
    [
        pa.month_day_nano_interval(),
        pa.dense_union([pa.field("a", pa.int8())]),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.list_view(pa.int8()),
        pa.large_list_view(pa.int8()),
        pa.uuid(),
        pa.struct([]),
        pa.decimal128(5, -2),
        pa.decimal128(2, 5),
        pa.dictionary(pa.int8(), pa.list_(pa.int8())),
        pa.list_(pa.float32(), 0),
        pa.list_(pa.float32(), 65_537),
        pa.list_(pa.string_view()),
        pa.struct([("inside", pa.dictionary(pa.int8(), pa.int64()))]),
    ],
    ids=str,
)
def test_types_a_table_cannot_hold(extra: pa.DataType, tmp_path: Any) -> None:
    """spec: SCH-7"""
    for kind in (extra, pa.list_(extra), pa.struct([("inside", extra)])):
        with pytest.raises(InvalidInputError, match=r"column '(a|item|inside|element)' (has|is)"):
            lake.create(str(tmp_path / "t"), pa.schema([("a", kind)]))
    assert not (tmp_path / "t").exists()


def test_dictionaries_that_differ_between_batches(tmp_path: Any) -> None:
    """spec: SCH-8"""
    kind = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("d", kind)])
    batches = [
        pa.record_batch([pa.array(values, kind)], schema=schema) for values in (["a", "b"], ["b", None, "c"])
    ]
    for scalar_format in ("vortex", "parquet"):
        table = lake.create(
            str(tmp_path / scalar_format), schema, properties={"write.scalar-format": scalar_format}
        )
        table.append(batches)
        assert table.to_arrow().column("d").to_pylist() == ["a", "b", "b", None, "c"]
        assert table.schema == schema


def test_slices_offsets_and_chunks_do_not_show(tmp_path: Any) -> None:
    """Rows handed in as slices of larger arrays and as many chunks. spec: SCH-8"""
    many = pa.concat_tables([DATA] * 3)
    table = lake.create(str(tmp_path / "t"), DATA.schema, surroundings=still_surroundings())
    table.append(many.slice(2, 11))
    assert_same(table.to_arrow(), many.slice(2, 11))
