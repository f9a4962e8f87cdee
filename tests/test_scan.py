"""Scans with a filter: the right rows in order, in batches no larger than asked for and no smaller than need be."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_format.engine import ScanRequest

ROWS = 24_000
SCHEMA = pa.schema(
    [("id", pa.int64()), ("kind", pa.string()), ("title", pa.string()), ("vec", pa.list_(pa.float32(), 2))]
)


@pytest.fixture(scope="module")
def table() -> lake.Table:
    """Two fragments, some rows deleted; the kinds change from one value to many halfway."""
    made = lake.create("memory://scans", SCHEMA)
    for start in (0, ROWS // 2):
        ids = range(start, start + ROWS // 2)
        made.append(
            [
                {
                    "id": one,
                    "kind": "hat" if one % 12_000 < 6_000 else f"kind {one}",
                    "title": None if one % 7 == 0 else f"title {one}",
                    "vec": [one, -one],
                }
                for one in ids
            ]
        )
    made.delete("id % 50 = 13")
    return made


def batches(table: lake.Table, **request: object) -> list[pa.RecordBatch]:
    return list(table.engine.scan(table.snapshot, ScanRequest(**request)))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ids=st.lists(st.integers(-3, ROWS + 3), min_size=1, max_size=40, unique=True),
    every=st.none() | st.sampled_from([2, 3, 5, 40, 700]),
    dense=st.none() | st.integers(0, ROWS),
    columns=st.permutations(["id", "kind", "title", "vec"]).flatmap(
        lambda names: st.integers(1, 4).map(lambda count: tuple(names[:count]))
    ),
    batch_rows=st.sampled_from([150, 500, 2_000, 100_000]),
    dictionaries=st.booleans(),
)
@example([5], None, None, ("kind",), 500, True)
@example([5, 4000, 19_000], 40, 2000, ("title", "kind", "id"), 500, True)
def test_rows_of_windows_read_together(
    table: lake.Table,
    ids: list[int],
    every: int | None,
    dense: int | None,
    columns: tuple[str, ...],
    batch_rows: int,
    dictionaries: bool,
) -> None:
    """Few here, many there: whatever the windows, the rows that match, in order."""
    where = f"id IN ({', '.join(map(str, ids))})"
    where += f" OR id % {every} = 1" if every else ""
    where += f" OR (id >= {dense} AND id < {dense} + 1500)" if dense is not None else ""
    where = f"({where}) AND kind <> ''"
    found = batches(table, columns=columns, where=where, batch_rows=batch_rows, dictionaries=dictionaries)
    assert all(0 < batch.num_rows <= batch_rows for batch in found)
    wanted = [
        one
        for one in range(ROWS)
        if one % 50 != 13
        and (
            one in ids or (every and one % every == 1) or (dense is not None and dense <= one < dense + 1500)
        )
    ]
    expected = table.take(wanted, columns=list(columns))
    assert [row for batch in found for row in batch.to_pylist()] == expected.to_pylist()


def test_few_rows_far_apart_come_in_one_batch_of_a_fragment(table: lake.Table) -> None:
    where = "id IN (5, 700, 3900, 11999, 12000, 23999)"
    found = batches(table, columns=("id", "title"), where=where, batch_rows=500)
    assert [batch.num_rows for batch in found] == [4, 2]


def test_many_rows_are_not_waited_for(table: lake.Table) -> None:
    found = batches(table, columns=("id", "title"), where="id % 5 = 1", batch_rows=2_000)
    assert [batch.num_rows for batch in found] == [1_200] * 4
    small = batches(table, columns=("id", "title"), where="id % 5 = 1", batch_rows=500)
    assert [batch.num_rows for batch in small] == [500, 500, 500, 500, 400] * 2
    alone = batches(table, columns=("id",), where="id % 5 = 1", batch_rows=2_000)
    assert [batch.num_rows for batch in alone] == [400] * 12
