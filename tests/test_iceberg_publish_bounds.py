"""What a publication says of its files' columns: bounds enclose the values, and filters read what may match."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from publish_samples import Rows, held, opened, read
from pyiceberg.conversions import from_bytes
from pyiceberg.manifest import DataFile
from pyiceberg.table import StaticTable

import lake_format as lake
from lake_connectors import iceberg

_MOMENTS = st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1))
_VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "uint16": (pa.uint16(), st.integers(0, 65535)),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "float": (pa.float32(), st.floats(width=32)),
    "double": (pa.float64(), st.floats()),
    "text": (pa.string(), st.text(max_size=90)),
    "raw": (pa.binary(), st.binary(max_size=90)),
    "bool": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), _MOMENTS.map(lambda moment: moment.date())),
    "time": (pa.time64("us"), st.times()),
    "moment": (pa.timestamp("us"), _MOMENTS),
    "seconds": (pa.timestamp("s"), _MOMENTS.map(lambda moment: moment.replace(microsecond=0))),
    "zoned": (
        pa.timestamp("us", "America/New_York"),
        _MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
    ),
    "money": (pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3)),
    "nested": (pa.struct([("x", pa.int64())]), st.fixed_dictionaries({"x": st.none() | st.integers(-9, 9)})),
}


_ROWS = st.integers(1, 8).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            name: st.lists(st.none() | drawn, min_size=count, max_size=count)
            for name, (_, drawn) in _VALUES.items()
        }
    )
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(columns=_ROWS)
def test_bounds_enclose_the_values(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[Any]]
) -> None:
    """spec: CPY-11"""
    schema = pa.schema([("id", pa.int64()), *((name, kind) for name, (kind, _) in _VALUES.items())])
    numbers = pa.array(range(len(columns["int8"])))
    data = [numbers, *(pa.array(columns[name], kind) for name, (kind, _) in _VALUES.items())]
    table = lake.create(str(tmp_path_factory.mktemp("bounds")), schema, layout="open")
    table.append(pa.table(data, schema))
    published = iceberg.publish(table)
    assert repr(_plain(read(published))) == repr(_plain(held(table)))
    found = StaticTable.from_metadata(published.metadata_location)
    (task,) = found.scan().plan_files()
    for name, (kind, _) in _VALUES.items():
        _check_bounds(found, task.file, name, kind, columns[name])


def _plain(found: Rows) -> list[list[Any]]:
    """Values in the order of ids, instants in UTC."""
    return [
        [
            value.astimezone(UTC).replace(tzinfo=UTC) if getattr(value, "tzinfo", None) else value
            for value in row.values()
        ]
        for _, row in sorted(found.items())
    ]


def _check_bounds(
    table: StaticTable, file: DataFile, name: str, kind: pa.DataType, values: list[Any]
) -> None:
    field = table.schema().find_field(f"{name}.x" if pa.types.is_struct(kind) else name)
    identity = field.field_id
    plain = [one["x"] if isinstance(one, dict) else one for one in values]
    there = [one for one in plain if one is not None and one == one]
    assert file.null_value_counts[identity] == plain.count(None)
    if pa.types.is_floating(kind):
        assert file.nan_value_counts[identity] == len(plain) - plain.count(None) - len(there)
    if not there:
        assert identity not in file.lower_bounds
        return
    low = from_bytes(field.field_type, file.lower_bounds[identity])
    numbers = pa.array(there, kind.field(0).type if pa.types.is_struct(kind) else kind)
    if pa.types.is_temporal(numbers.type):
        unit = pa.timestamp("us", numbers.type.tz) if pa.types.is_timestamp(numbers.type) else numbers.type
        width = pa.int32() if pa.types.is_date(unit) else pa.int64()
        there = numbers.cast(unit).cast(width).to_pylist()
    assert low <= min(there)
    if identity in file.upper_bounds:
        assert max(there) <= from_bytes(field.field_type, file.upper_bounds[identity])
    else:  # text that nothing of its length is greater than
        assert pa.types.is_string(kind) or pa.types.is_binary(kind)


def test_filters_read_no_more_files_than_may_match(tmp_path: Path) -> None:
    table = opened(tmp_path / "t", *range(40))
    found = StaticTable.from_metadata(iceberg.publish(table).metadata_location)
    chance = random.Random(5)
    for _ in range(20):
        low = chance.randrange(40)
        scan = found.scan(row_filter=f"id >= {low} AND price < {low + 3}", selected_fields=("id",))
        assert sorted(scan.to_arrow()["id"].to_pylist()) == [one for one in range(low, low + 3) if one < 40]
        assert len(list(scan.plan_files())) <= 2
    assert json.loads((tmp_path / "t" / "metadata" / "v1.metadata.json").read_text())["format-version"] == 2
