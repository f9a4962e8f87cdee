"""The order of rows: curves, keys of any type, and the external sort."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_engines.ordering import sorting
from lake_engines.ordering.curves import hilbert, zorder
from lake_engines.ordering.keys import CurveKeys, LinearKeys
from lake_engines.ordering.sorting import ExternalSort
from lake_engines.ordering.values import nulls_of, ordered
from lake_engines.upkeep.row_order import nearest_neighbour_tour


@pytest.mark.parametrize(("axes", "bits"), [(1, 6), (2, 1), (2, 5), (3, 3), (4, 2), (5, 2)])
def test_the_hilbert_curve_visits_every_cell_by_unit_steps(axes: int, bits: int) -> None:
    cells = np.array(list(itertools.product(range(1 << bits), repeat=axes)), np.uint64)
    places = hilbert(list(cells.T), bits)
    assert sorted(places.tolist()) == list(range(len(cells)))
    path = cells[np.argsort(places)].astype(np.int64)
    assert (np.abs(np.diff(path, axis=0)).sum(axis=1) == 1).all()


def test_the_z_order_interleaves_bits() -> None:
    x, y = np.array([0b101, 0b000], np.uint64), np.array([0b011, 0b111], np.uint64)
    assert zorder([x, y], 3).tolist() == [0b100111, 0b010101]


def test_curves_of_the_finest_grid_stay_apart() -> None:
    rng = np.random.default_rng(0)
    points = np.unique(rng.integers(0, 1 << 16, (5000, 4)), axis=0).astype(np.uint64)
    for curve in (hilbert, zorder):
        assert len(np.unique(curve(list(points.T), 16))) == len(points)


VALUES = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "double": (pa.float64(), st.floats()),
    "half": (pa.float16(), st.floats(width=16)),
    "decimal": (pa.decimal128(12, 2), st.decimals(-(10**9), 10**9, places=2)),
    "date": (pa.date32(), st.dates()),
    "timestamp": (pa.timestamp("us"), st.datetimes()),
    "text": (pa.string_view(), st.text(max_size=8)),
    "binary": (pa.binary(), st.binary(max_size=8).filter(lambda one: not one.endswith(b"\0"))),
    "boolean": (pa.bool_(), st.booleans()),
    "codes": (pa.dictionary(pa.int8(), pa.string()), st.sampled_from(["a", "b", "äh"])),
}


@pytest.mark.parametrize("kind", VALUES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_values_of_every_type_keep_their_order(kind: str, data: st.DataObject) -> None:
    dtype, strategy = VALUES[kind]
    values = data.draw(st.lists(st.none() | strategy, min_size=1, max_size=10))
    column = pa.array(np.array(values, "f2"), dtype) if kind == "half" and None not in values else None
    column = pa.array([None if one is None else one for one in values], dtype) if column is None else column
    places, null = ordered(column), nulls_of(column)
    assert null.tolist() == [one is None for one in values]
    for (left, one), (right, other) in itertools.combinations(enumerate(values), 2):
        if one is None or other is None:
            continue
        if isinstance(one, float) and (math.isnan(one) or math.isnan(other)):
            assert (places[left] > places[right]) == (math.isnan(one) and not math.isnan(other))
        elif isinstance(one, str):
            assert (places[left] < places[right]) == (one.encode() < other.encode())
        else:
            assert not (one < other) or places[left] < places[right]
            assert one != other or places[left] == places[right]


def test_linear_keys_sort_by_one_column_after_the_other_nulls_last() -> None:
    batch = pa.record_batch(
        {"a": pa.array([2, None, 1, 1, None], pa.int64()), "b": ["x", "y", "z", None, "a"]}
    )
    words = LinearKeys(["a", "b"]).keys(batch, 0)
    assert np.lexsort(tuple(reversed(words))).tolist() == [2, 3, 0, 4, 1]


def test_curve_keys_bring_neighbours_together() -> None:
    rng = np.random.default_rng(1)
    skewed = np.exp(rng.normal(0, 4, 4000))  # quantiles cut it evenly
    batch = pa.record_batch({"a": skewed, "b": pa.array(rng.integers(0, 1000, 4000))})
    keys = CurveKeys(["a", "b"], "hilbert")
    keys.fit([batch])
    (places,) = keys.keys(batch, 0)
    order = np.argsort(places)
    ranks = np.stack([np.argsort(np.argsort(batch.column(i).to_numpy()[order])) for i in range(2)])
    spread = [np.ptp(ranks[:, start : start + 250], axis=1).max() for start in range(0, 4000, 250)]
    assert np.median(spread) < 4000 * 0.45  # a sixteenth of the rows spans about a quarter of each axis


class _Given:
    """Keys as given, one or two words a row."""

    def fit(self, batches: object) -> None:
        """Nothing."""

    def keys(self, batch: pa.RecordBatch, start: int) -> list[np.ndarray[tuple[int], np.dtype[np.uint64]]]:
        """The first two columns."""
        return [batch.column(index).to_numpy().astype(np.uint64) for index in range(2)]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=200),
    size=st.integers(1, 9),
    memory=st.sampled_from([64, 600, 1 << 20]),
    fan_in=st.integers(2, 4),
)
def test_the_sort_is_stable_whatever_is_spilled(
    rows: list[tuple[int, int]], size: int, memory: int, fan_in: int
) -> None:
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("name", pa.string_view())])
    saved = sorting._FAN_IN, sorting._MOST_ROWS
    sorting._FAN_IN, sorting._MOST_ROWS = fan_in, 3
    try:
        with ExternalSort(schema, _Given(), memory_bytes=memory) as sort:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                columns = [
                    [a for a, _ in part],
                    [b for _, b in part],
                    [f"row {start + i}" for i in range(len(part))],
                ]
                sort.add(pa.record_batch(columns, schema=schema))
            folder = sort._folder
            found = list(sort.rows())
            assert folder is None or Path(folder.name).exists()
        assert folder is None or not Path(folder.name).exists()
    finally:
        sorting._FAN_IN, sorting._MOST_ROWS = saved
    expected = sorted(range(len(rows)), key=lambda place: rows[place])
    assert [place for part in found for place in part.places.tolist()] == expected
    assert [name for part in found for name in part.batch.column("name").to_pylist()] == [
        f"row {place}" for place in expected
    ]


def test_a_tour_steps_to_the_nearest_point_left() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(200, 3)).astype("f4")
    tour = nearest_neighbour_tour(points)
    assert sorted(tour.tolist()) == list(range(200))
    steps = np.linalg.norm(np.diff(points[tour], axis=0), axis=1)
    assert steps.mean() < 0.6 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()
