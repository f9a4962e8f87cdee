"""What files an upsert writes: moved and new rows together, keys beside them, from rows staged in any way."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_samples import SCHEMA, Forced, content, ids, make, row_ids, rows, vector
from stores.faulty import Fault, FaultyStore

import lake_format as lake
from lake_engines.changes import StagedRows
from lake_format.errors import StorageError
from lake_format.paths import KEYS
from lake_format.store.local import LocalStore


@pytest.mark.parametrize(
    ("fragment_rows", "partition", "more"), [(1000, (), 1), (60, (), 3), (1000, ("bucket(2, id)",), 4)]
)
def test_rows_that_move_and_new_ones_share_a_fragment(
    tmp_path: Path, fragment_rows: int, partition: tuple[str, ...], more: int
) -> None:
    """One set of files for both, unless the table's partitions ask for more. spec: CHG-3, IDN-2, KEY-3"""
    table = make(tmp_path, *range(300), key="id", fragment_rows=fragment_rows, partition_by=partition)
    before, count = row_ids(table), table.inspect.fragments().num_rows
    with Forced("move"):
        done = table.upsert(rows(*range(250, 400), name="new"))
    assert (done.updated, done.inserted, done.strategy) == (50, 100, "move")
    after = row_ids(table)
    assert {one: after[one] for one in before} == before
    assert {after[one] for one in range(300, 400)} == {*range(300, 400)}
    assert table.inspect.fragments().num_rows == count + more
    assert table.snapshot.version.next_row_id == 400
    assert table.get([260, 399], columns=["name"]).to_pylist() == [{"name": "new"}] * 2
    assert content(table, "name", "vec")[310] == {"id": 310, "name": "new", "vec": vector(310)}
    assert not table.verify().problems
    changes = table.changes(table.version - 1, columns=["id"]).read_all().to_pylist()
    assert sorted(one["id"] for one in changes if one["_change"] == "insert") == [*range(300, 400)]
    assert sum(one["_change"] == "update_postimage" for one in changes) == 50


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_staged_rows_are_taken_across_chunks(data: st.DataObject) -> None:
    """Streams are staged in many chunks, of which only those with wanted rows are looked into."""
    sizes = data.draw(st.lists(st.integers(0, 30), max_size=5))
    starts = np.cumsum([0, *sizes])
    batches = [pa.RecordBatch.from_pylist(rows(*range(a, b)), SCHEMA) for a, b in pairwise(starts.tolist())]
    if data.draw(st.booleans()) and batches and sizes[-1]:  # a NULL vector, which NumPy cannot gather
        last = [
            *rows(*range(int(starts[-2]), int(starts[-1]) - 1)),
            {**rows(int(starts[-1]) - 1)[0], "vec": None},
        ]
        batches[-1] = pa.RecordBatch.from_pylist(last, SCHEMA)
    staged = StagedRows(
        iter(batches) if data.draw(st.booleans()) else pa.Table.from_batches(batches, SCHEMA), SCHEMA
    )
    expected = pa.Table.from_batches(batches, SCHEMA)
    count = len(expected)
    wanted = data.draw(st.lists(st.integers(0, count - 1), max_size=20)) if count else []
    names = data.draw(st.sampled_from([None, ["vec"], ["name", "id"]])) if len(staged.columns) else []
    found = staged.take(np.array(wanted, np.int64), names)
    assert (
        found.to_pylist()
        == expected.select(found.schema.names).take(pa.array(wanted, pa.int64())).to_pylist()
    )
    staged.close()


def test_hashes_that_cannot_be_stored_undo_the_upsert(tmp_path: Path) -> None:
    """They are stored while rows are written; whichever fails, nothing is left. spec: CHG-9"""
    many = pa.table({"id": np.arange(2000), "price": np.zeros(2000)})
    for failing in (KEYS, "data/"):
        root = tmp_path / failing.strip("/").replace("/", "-")
        make(root, *range(5), key="id", fragment_rows=100)
        before = sorted(path.name for path in root.rglob("*.*"))

        def refuse(_: int, method: str, path: str, start: str = failing) -> Fault | None:
            return (
                Fault.PERMISSION_DENIED if path.startswith(start) and method in ("create", "close") else None
            )

        faulty = FaultyStore(LocalStore(root / "table"), refuse)
        with pytest.raises(StorageError, match="permission denied"):
            lake.open("unused", store=faulty).upsert(many)
        assert sorted(path.name for path in root.rglob("*.*")) == before
        assert ids(lake.open(str(root / "table"))) == [*range(5)]
