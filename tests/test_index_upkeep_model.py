"""Any sequence of changes and upkeep: a search equals brute force, on local disk, in memory and on S3; and faults."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lake_format as lake
from lake_format.store import Store, forget_memory, open_store

SCHEMA = pa.schema([pa.field("id", pa.int64(), False), ("n", pa.int32()), ("v", pa.list_(pa.float32(), 4))])


class Model:
    """A table and what it should hold: vectors by id."""

    def __init__(self, store: Store) -> None:
        self.random = np.random.default_rng(7)
        self.table = lake.create("unused", SCHEMA, store=store)
        self.rows: dict[int, np.ndarray] = {}
        self.kept: list[tuple[int, dict[int, np.ndarray]]] = []
        self.append(1100)
        self.table.create_index("v", lists=4)

    def vectors(self, count: int) -> np.ndarray:
        return self.random.normal(size=(count, 4)).astype(np.float32)

    def append(self, count: int) -> None:
        first = max(self.rows, default=-1) + 1
        ids, vectors = np.arange(first, first + count), self.vectors(count)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
        name = self.table.schema.names[2]
        self.table.append(pa.table({"id": ids, "n": pa.array(ids % 9, pa.int32()), name: column}))
        self.rows |= dict(zip(ids.tolist(), vectors, strict=True))

    def delete(self, part: int) -> None:
        self.table.delete(f"id % 8 = {part}")
        self.rows = {one: vector for one, vector in self.rows.items() if one % 8 != part}

    def update(self, part: int) -> None:
        vector = self.vectors(1)[0]
        self.table.update({self.table.schema.names[2]: vector.tolist()}, f"id % 50 = {part}")
        self.rows = {one: vector if one % 50 == part else old for one, old in self.rows.items()}

    def other(self, part: int) -> None:
        self.table.update({"n": part}, f"id % 3 = {part % 3}")

    def compact(self, _part: int) -> None:
        self.table.compact(target_rows=100_000)

    def optimize(self, part: int) -> None:
        self.table.optimize_index(retrain=None if part < 6 else part == 7)

    def on_append(self, part: int) -> None:
        self.table.set_properties({"write.index-on-append": part % 2 == 0})

    def rename(self, part: int) -> None:
        names = self.table.schema.names
        self.table.rename_column(names[2], "w" if names[2] == "v" else "v")

    def widen(self, _part: int) -> None:
        if self.table.schema.field("n").type == pa.int32():
            self.table.widen_column("n", pa.int64())

    def recreate(self, _part: int) -> None:
        self.table.create_index(self.table.schema.names[2], lists=3, name="v_l2")

    def restore(self, part: int) -> None:
        if self.kept:
            version, rows = self.kept[part % len(self.kept)]
            self.table.restore(version)
            self.rows = dict(rows)

    def check(self) -> None:
        self.kept.append((self.table.version, dict(self.rows)))
        queries, ids = self.vectors(3), np.array(sorted(self.rows))
        known = np.stack([self.rows[one] for one in ids]) if len(ids) else np.empty((0, 4))
        for query in queries:
            true = np.sort(np.linalg.norm(known - query, axis=1))[:7]
            found = self.table.search(query, 7, recall=1.0, select=["id", "_distance"]).to_arrow()
            distances = found["_distance"].to_numpy()
            np.testing.assert_allclose(distances, true, rtol=1e-4)
            own = [float(np.linalg.norm(self.rows[one] - query)) for one in found["id"].to_pylist()]
            np.testing.assert_allclose(distances, own, rtol=1e-4)
        for entry in self.table.snapshot.version.indexes:
            covered = [shard.decoded_row_ids() for shard in entry.shards]
            together = np.concatenate(covered) if covered else np.empty(0)
            assert len(np.unique(together)) == len(together)


STEPS = (
    ("append", st.integers(1, 400)),
    ("delete", st.integers(0, 7)),
    ("update", st.integers(0, 49)),
    ("other", st.integers(0, 9)),
    ("compact", st.just(0)),
    ("optimize", st.integers(0, 7)),
    ("optimize", st.just(0)),
    ("on_append", st.integers(0, 1)),
    ("rename", st.just(0)),
    ("widen", st.just(0)),
    ("recreate", st.just(0)),
    ("restore", st.integers(0, 20)),
)
PROGRAMS = st.lists(
    st.one_of([st.tuples(st.just(name), values) for name, values in STEPS]), min_size=3, max_size=9
)


def run(store: Store, program: list[tuple[str, int]]) -> None:
    model = Model(store)
    for name, value in program:
        getattr(model, name)(value)
        model.check()
    report = model.table.verify()
    assert report.ok, report.problems


@settings(max_examples=3, deadline=None)
@given(PROGRAMS)
def test_a_search_equals_brute_force_after_any_sequence(program: list[tuple[str, int]]) -> None:
    """spec: IDN-8, IDN-10, UPK-21"""
    uri = f"memory://index-model-{uuid4().hex}"
    try:
        run(open_store(uri), program)
    finally:
        forget_memory(uri)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(PROGRAMS)
def test_a_search_equals_brute_force_after_many_sequences(program: list[tuple[str, int]]) -> None:
    """spec: IDN-8, IDN-10, UPK-21"""
    uri = f"memory://index-model-{uuid4().hex}"
    try:
        run(open_store(uri), program)
    finally:
        forget_memory(uri)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_on_a_disk_and_on_s3(place: str, request: pytest.FixtureRequest) -> None:
    run(
        request.getfixturevalue(f"{place}_location").store(), [("append", 90), ("update", 3), ("optimize", 0)]
    )


@pytest.mark.long
def test_on_every_kind_of_store(any_store: Store) -> None:
    program = [("append", 90), ("optimize", 0), ("update", 3), ("append", 60), ("delete", 1), ("compact", 0)]
    run(any_store, [*program, ("optimize", 0), ("on_append", 0), ("append", 30), ("optimize", 7)])
