"""Lazy frames over tables: what is pushed down, and that what is not is still right.

That rows are the right ones is the business of ``test_conformance``.
"""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lake_rows import filled_table

import lake_format as lake
from lake_connectors.adapter.following import Pushdown
from lake_connectors.polars import scan

PUSHED = [
    pl.col("id") < 100,
    pl.lit(100) > pl.col("id"),
    pl.col("id").is_in([1, 2, 400]),
    ~pl.col("id").is_in([1, 2, 400]),
    pl.col("id").is_between(5, 70),
    pl.col("price") > 50.0,
    pl.col("price") <= 0.0,
    pl.col("title") == "x",
    pl.col("title").is_null(),
    pl.col("category").is_in(["a", "c"]),
    pl.col("flag"),
    ~pl.col("flag"),
    pl.col("day") > date(2024, 1, 20),
    pl.col("moment") >= datetime(2024, 3, 31, 2),
    pl.col("seen")
    < pl.lit(datetime(2024, 3, 31, 3)).dt.replace_time_zone("Europe/Berlin").dt.cast_time_unit("ms"),
    pl.col("cost") > Decimal("1.05"),
    pl.col("vec").is_null(),
]
LEFT = [
    pl.col("price") == math.nan,  # noqa: PLW0177 - by Polars' rules NaN equals itself
    pl.col("title").str.contains("x"),
    pl.col("id") % 7 == 3,
    pl.col("small") == pl.col("id"),
    pl.col("title").is_in(["x", None], nulls_equal=True),
    pl.col("price").is_nan(),
    pl.col("place").struct.field("city") == "Rome",
]


@pytest.fixture(scope="module")
def table() -> lake.Table:
    return filled_table("memory://polars-tests")


@pytest.fixture(scope="module")
def copy(table: lake.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table.to_arrow())
    assert isinstance(frame, pl.DataFrame)
    return frame


def ids(frame: pl.DataFrame) -> list[int]:
    return sorted(frame.get_column("id").to_list())


@pytest.mark.parametrize("condition", PUSHED, ids=str)
def test_filters_the_table_answers(table: lake.Table, copy: pl.DataFrame, condition: pl.Expr) -> None:
    seen: list[Pushdown] = []
    found = scan(table, observer=seen.append).filter(condition).select("id").collect()
    assert ids(found) == ids(copy.filter(condition))
    assert seen[-1].predicates, "nothing reached the table"


@pytest.mark.parametrize("condition", LEFT, ids=str)
def test_filters_left_to_polars(table: lake.Table, copy: pl.DataFrame, condition: pl.Expr) -> None:
    seen: list[Pushdown] = []
    both = (pl.col("id") > 20) & condition
    found = scan(table, observer=seen.append).filter(both).select("id").collect()
    assert ids(found) == ids(copy.filter(both))
    assert seen[-1].predicates == ("id > 20",)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    condition=st.recursive(
        st.sampled_from([*PUSHED, *LEFT]),
        lambda below: st.one_of(
            st.builds(lambda one, other: one & other, below, below),
            st.builds(lambda one, other: one | other, below, below),
            st.builds(lambda one: ~one, below),
        ),
        max_leaves=4,
    ),
    head=st.none() | st.integers(0, 30),
)
def test_any_filters_together(
    table: lake.Table, copy: pl.DataFrame, condition: pl.Expr, head: int | None
) -> None:
    found = scan(table).filter(condition).select("id", "title")
    expected = copy.filter(condition)
    if head is not None:
        found = found.head(head)
        assert found.collect().height == min(head, expected.height)
        assert set(ids(found.collect())) <= set(ids(expected))
    else:
        assert ids(found.collect()) == ids(expected)


def test_row_ids_and_counting(table: lake.Table) -> None:
    frame = scan(table, row_ids=True)
    assert frame.select(pl.len()).collect().item() == 600
    found = frame.filter(pl.col("_row_id") >= 590).select("_row_id", "id").collect()
    assert found.rows() == [(number, number) for number in range(590, 600)]


def test_a_column_that_went_is_named() -> None:
    made = lake.create("memory://polars-gone", pa.schema([("a", pa.int64()), ("b", pa.int64())]))
    made.append([{"a": 1, "b": 2}])
    frame = scan(made).select("b")
    frame.collect_schema()
    assert frame.collect().rows() == [(2,)]
    lake.open("memory://polars-gone").drop_column("b")
    with pytest.raises(pl.exceptions.PolarsError, match='column "b"'):
        frame.collect()


def test_a_version_goes_with_a_uri(table: lake.Table) -> None:
    assert scan("memory://polars-tests", version=2).collect().height == 200
    with pytest.raises(lake.InvalidInputError, match="goes with a URI"):
        scan(table, version=2)
