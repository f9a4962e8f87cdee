"""Rows that make filters go wrong, and queries for their vectors: what every engine's tests are run over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hypothesis import strategies as st

import lake_format as lake

DIMENSION = 6
ROWS = 600
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("small", pa.int16()),
        ("price", pa.float64()),
        ("weight", pa.float32()),
        ("title", pa.string()),
        ("category", pa.string()),
        ("moment", pa.timestamp("us")),
        ("seen", pa.timestamp("ms", tz="Europe/Berlin")),
        ("day", pa.date32()),
        ("cost", pa.decimal128(9, 2)),
        ("flag", pa.bool_()),
        ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])),
        ("vec", pa.list_(pa.float32(), DIMENSION)),
    ]
)


def filled_table(uri: str) -> lake.Table:
    """A new table of the first rows, in three fragments."""
    table = lake.create(uri, SCHEMA)
    for start in range(0, ROWS, ROWS // 3):
        table.append(rows(start, ROWS // 3))
    return table


def rows(start: int, count: int) -> pa.Table:
    """Rows with what makes filters go wrong: NULL, NaN, both zeros, infinities, zones, odd text."""
    random = np.random.default_rng(start + 1)
    prices = [None, float("nan"), 0.0, -0.0, float("inf"), float("-inf"), 9.99, *(random.random(9) * 100)]
    titles = [None, "", "x", "x%y", "_", "Ärger", "ärger", "it's", "a\\b", "xylophone", "日本"]
    ids = range(start, start + count)
    moment = datetime(2024, 3, 31, 0, 30)
    vectors = random.random((count, DIMENSION), dtype=np.float32)

    def one_of(pool: list[Any]) -> list[Any]:
        return [pool[index] for index in random.integers(0, len(pool), count)]

    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "small": pa.array(one_of([None, -3, 0, 1, 2, 7]), pa.int16()),
            "price": pa.array(one_of(prices), pa.float64()),
            "weight": pa.array(one_of([None, float("nan"), 0.1, -0.0, 2.5]), pa.float32()),
            "title": pa.array(one_of(titles), pa.string()),
            "category": pa.array(one_of(["a", "b", "c", None]), pa.string()),
            "moment": pa.array(
                [moment + timedelta(minutes=7 * number) for number in ids], pa.timestamp("us")
            ),
            "seen": pa.array(
                [moment.replace(tzinfo=UTC) + timedelta(minutes=11 * number) for number in ids],
                pa.timestamp("ms", tz="Europe/Berlin"),
            ),
            "day": pa.array([date(2024, 1, 1) + timedelta(days=number % 40) for number in ids], pa.date32()),
            "cost": pa.array(
                one_of([None, Decimal("1.10"), Decimal("-2.00"), Decimal("0.00")]), pa.decimal128(9, 2)
            ),
            "flag": pa.array(one_of([None, True, False]), pa.bool_()),
            "place": pa.array(
                one_of([None, {"city": "Rome", "zip": 1}, {"city": None, "zip": 2}]),
                SCHEMA.field("place").type,
            ),
            "vec": pa.array(
                [
                    None if number % 41 == 5 else row
                    for number, row in zip(ids, vectors.tolist(), strict=True)
                ],
                SCHEMA.field("vec").type,
            ),
        },
        schema=SCHEMA,
    )


def query(seed: int = 0) -> list[float]:
    values: npt.NDArray[np.float32] = np.random.default_rng(1000 + seed).random(DIMENSION, dtype=np.float32)
    return [float(value) for value in values]


def condition_trees(conditions: Sequence[str], most: int) -> st.SearchStrategy[str]:
    """SQL conditions of at most so many of those given, under AND, OR and NOT."""
    return st.recursive(
        st.sampled_from(conditions),
        lambda below: st.one_of(
            st.builds("({} AND {})".format, below, below),
            st.builds("({} OR {})".format, below, below),
            st.builds("(NOT {})".format, below),
        ),
        max_leaves=most,
    )
