"""Every Arrow type round-trips exactly through both formats: scan by window and take against an in-memory table."""

from __future__ import annotations

import datetime
import decimal
import tempfile
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake_engines.files import (
    FileReader,
    open_reader,
    open_writer,
    parquet_can_hold,
    take_any_order,
    vortex_can_hold,
)
from lake_format.schema import is_vector
from lake_format.store.local import LocalStore

FORMATS = {"vortex": vortex_can_hold, "parquet": parquet_can_hold}

SCALARS: dict[pa.DataType, st.SearchStrategy] = {
    pa.bool_(): st.booleans(),
    **{
        kind: st.integers(np.iinfo(kind.to_pandas_dtype()).min, np.iinfo(kind.to_pandas_dtype()).max)
        for kind in (
            pa.int8(),
            pa.int16(),
            pa.int32(),
            pa.int64(),
            pa.uint8(),
            pa.uint16(),
            pa.uint32(),
            pa.uint64(),
        )
    },
    pa.float16(): st.floats(width=16).map(np.float16),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.string(): st.text(max_size=30),
    pa.large_string(): st.text(max_size=30),
    pa.string_view(): st.text(max_size=30),
    pa.binary(): st.binary(max_size=30),
    pa.large_binary(): st.binary(max_size=30),
    pa.binary_view(): st.binary(max_size=30),
    pa.binary(5): st.binary(min_size=5, max_size=5),
    pa.decimal128(9, 2): st.decimals(-9999999, 9999999, places=2, allow_nan=False),
    pa.decimal128(38, 10): st.decimals(-(10**20), 10**20, places=10, allow_nan=False),
    pa.decimal256(60, 3): st.decimals(-(10**25), 10**25, places=3, allow_nan=False),
    pa.decimal32(7, 2): st.decimals(-9999, 9999, places=2, allow_nan=False),
    pa.decimal64(15, 2): st.decimals(-9999, 9999, places=2, allow_nan=False),
    pa.date32(): st.dates(),
    pa.date64(): st.dates(),
    pa.time32("s"): st.times().map(lambda value: value.replace(microsecond=0)),
    pa.time32("ms"): st.times().map(lambda value: value.replace(microsecond=1000)),
    pa.time64("us"): st.times(),
    pa.time64("ns"): st.times(),
    pa.timestamp("s"): st.integers(-(10**9), 10**10),
    pa.timestamp("ms", "UTC"): st.integers(-(10**12), 10**13),
    pa.timestamp("us", "America/New_York"): st.integers(-(10**15), 10**16),
    pa.timestamp("ns", "+02:00"): st.integers(-(2**62), 2**62),
    pa.duration("s"): st.integers(-(10**9), 10**9),
    pa.duration("ns"): st.integers(-(2**62), 2**62),
}
WORDS = st.sampled_from(["red", "green", "blue", ""])


def nested(kind: pa.DataType, values: st.SearchStrategy, depth: int) -> st.SearchStrategy:
    """(type, strategy of values) pairs built around one inner pair."""
    maybe = st.none() | values
    parts = values if is_vector(pa.list_(kind, 3)) else maybe  # a vector is whole
    keyed = st.lists(st.tuples(st.text(max_size=5), maybe), max_size=3, unique_by=lambda pair: pair[0])
    return st.sampled_from(
        [
            (pa.list_(kind), st.lists(maybe, max_size=4)),
            (pa.large_list(kind), st.lists(maybe, max_size=4)),
            (pa.list_(kind, 3), st.lists(parts, min_size=3, max_size=3)),
            (
                pa.struct([pa.field("a", kind), pa.field("b", pa.string(), nullable=False)]),
                st.fixed_dictionaries({"a": maybe, "b": st.text(max_size=5)}),
            ),
            (pa.map_(pa.string(), kind), keyed),
        ]
    )


def kinds(depth: int = 2) -> st.SearchStrategy:
    """Pairs of an Arrow type and a strategy for its values."""
    flat = st.sampled_from(list(SCALARS.items()))
    flat |= st.sampled_from(
        [
            (pa.dictionary(index, value, ordered), WORDS if value != pa.int64() else st.integers(0, 9))
            for index in (pa.int8(), pa.int32(), pa.uint16())
            for value, ordered in (
                (pa.string(), False),
                (pa.string(), True),
                (pa.large_string(), False),
                (pa.int64(), False),
            )
        ]
    )
    if depth == 0:
        return flat
    return flat | kinds(depth - 1).flatmap(lambda pair: nested(*pair, depth))


@st.composite
def tables(draw: st.DrawFn, can_hold) -> pa.Table:
    columns = draw(st.lists(kinds().filter(lambda pair: can_hold(pair[0])), min_size=1, max_size=4))
    rows = draw(st.integers(0, 60))
    fields, arrays = [], []
    for number, (kind, values) in enumerate(columns):
        nullable = draw(st.booleans())
        data = draw(st.lists(st.none() | values if nullable else values, min_size=rows, max_size=rows))
        metadata = {b"PARQUET:field_id": str(number + 1).encode()}
        fields.append(pa.field(draw(st.sampled_from("abc é.")) + str(number), kind, nullable, metadata))
        arrays.append(array_of(data, kind))
    return pa.table(arrays, schema=pa.schema(fields, metadata={b"made by": b"a test"}))


def array_of(data: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(data, kind.value_type).dictionary_encode().cast(kind)
    return pa.array(data, kind)


def same(found: pa.Table, expected: pa.Table) -> None:
    """Equal in schema, validity and every bit but the payload of NaN; -0.0 differs from 0.0."""
    assert found.schema.equals(expected.schema, check_metadata=True)
    for name in expected.schema.names:
        left, right = found[name], expected[name]
        for chunk in left.chunks:
            # What lies in a fixed-size list beneath a NULL is nobody's, and may be no value of the type.
            chunk.validate(full="fixed_size_list" not in str(right.type))
            assert chunk.type.equals(right.type, check_metadata=True)
        assert [repr(value) for value in left.to_pylist()] == [repr(value) for value in right.to_pylist()]


def write(store: LocalStore, path: str, table: pa.Table, form: str, cuts: list[int]) -> FileReader:
    rows = None if form == "vortex" else 7
    writer = open_writer(store, path, table.schema, format=form, page_rows=rows, plain=len(cuts) % 2 == 1)
    edges = sorted({0, table.num_rows, *(cut % (table.num_rows + 1) for cut in cuts)})
    for low, high in pairwise(edges):
        for batch in table.slice(low, high - low).combine_chunks().to_batches():
            writer.write(batch)
    return open_reader(store, writer.close(), table.schema)


@pytest.fixture(scope="module")
def store() -> Iterator[LocalStore]:
    with tempfile.TemporaryDirectory() as folder:
        yield LocalStore(folder, sync=False)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_table_comes_back_exactly(store: LocalStore, form: str, data: st.DataObject) -> None:
    """spec: FIL-3, FIL-6, VTX-2, VTX-3, PQT-2, PQT-7."""
    table = data.draw(tables(FORMATS[form]))
    path = f"{form}-{np.random.default_rng().integers(1 << 62)}"
    reader = write(store, path, table, form, data.draw(st.lists(st.integers(0, 100), max_size=3)))
    rows = table.num_rows
    assert reader.rows == rows
    same(pa.Table.from_batches(list(reader.scan()), table.schema), table)

    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    names = data.draw(st.permutations(table.schema.names))[: data.draw(st.integers(1, len(table.schema)))]
    window = list(reader.scan(names, start=start, stop=stop, batch_rows=data.draw(st.integers(1, 70))))
    narrow = table.select(names)
    same(pa.Table.from_batches(window, narrow.schema), narrow.slice(start, stop - start))

    places = data.draw(st.lists(st.integers(0, rows - 1), max_size=20)) if rows else []
    expected = pa.Table.from_batches(
        [batch for place in places for batch in narrow.slice(place, 1).to_batches()], narrow.schema
    )
    same(pa.Table.from_batches([take_any_order(reader, places, names)]), expected)
    assert reader.take(np.unique(np.array(places, np.uint64)), []).num_rows == len(set(places))
    reader.verify()
    store.delete(path)


ALL_TYPES = [
    *SCALARS,
    pa.null(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.string()),
    pa.list_(pa.float32(), 2),
    pa.struct([("x", pa.int8())]),
    pa.map_(pa.string(), pa.int32()),
    pa.list_view(pa.int8()),
    pa.list_(pa.binary(3)),
    pa.month_day_nano_interval(),
    pa.run_end_encoded(pa.int32(), pa.int8()),
    pa.decimal128(5, -2),
    pa.dense_union([pa.field("x", pa.int8())]),
]


@pytest.mark.parametrize("kind", ALL_TYPES, ids=str)
def test_a_type_that_can_be_held_comes_back_and_the_rest_is_refused_by_name(store: LocalStore, kind) -> None:
    """spec: FIL-7."""
    held = set()
    for form, can_hold in FORMATS.items():
        schema = pa.schema([pa.field("x", kind)])
        if not can_hold(kind):
            from lake_format.errors import UnsupportedError

            with pytest.raises(UnsupportedError, match="'x'"):
                open_writer(store, f"{kind}".replace("/", "_"), schema, format=form)
            continue
        held.add(form)
        path = f"{form}-{ALL_TYPES.index(kind)}"
        reader = write(store, path, schema.empty_table(), form, [])
        same(pa.Table.from_batches(list(reader.scan()), schema), schema.empty_table())
        nulls = pa.table([pa.nulls(9, kind)], schema=schema)
        reader = write(store, path + "-nulls", nulls, form, [4])
        same(pa.Table.from_batches(list(reader.scan()), schema), nulls)
    user_types = held or any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_interval,
            pa.types.is_run_end_encoded,
            pa.types.is_union,
            pa.types.is_list_view,
        )
    )
    assert user_types or kind == pa.decimal128(5, -2), f"neither format holds {kind}"


def test_moments_keep_their_zone(store: LocalStore) -> None:
    moment = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456, datetime.UTC)
    money = decimal.Decimal("-0.01")
    table = pa.table(
        {"at": pa.array([moment, None], pa.timestamp("us", "Asia/Kathmandu")), "due": [money, None]}
    )
    for form in FORMATS:
        reader = write(store, f"zone-{form}", table, form, [])
        same(pa.Table.from_batches(list(reader.scan())), table)
