"""The difference of two versions, against dictionaries; moved rows are no change."""

from __future__ import annotations

from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_upkeep_compact import SCHEMA, contents, make, rows

import lake_format as lake
from lake_format.errors import NotFoundError
from lake_format.store import open_store

_STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 20)),
    st.tuples(st.just("delete"), st.integers(2, 7)),
    st.tuples(st.just("update"), st.integers(2, 7)),
    st.tuples(st.just("compact"), st.integers(1, 60)),
    st.tuples(st.just("restore"), st.integers(0, 20)),
)


def _apply(table: lake.Table, what: str, number: int, following: int) -> None:
    if what == "append":
        table.append(rows(following, number))
    elif what == "delete":
        table.delete(f"id % {number} = 1")
    elif what == "update":
        table.update({"name": f"by {number}"}, where=f"id % {number} = 0")
    elif what == "compact":
        table.compact(target_rows=number, deleted_share=0.2)
    else:
        table.restore(1 + number % table.version)


@given(st.lists(_STEPS, min_size=2, max_size=5))
@settings(max_examples=8)
def test_any_two_versions(steps: list[tuple[str, int]]) -> None:
    """spec: VER-8"""
    table = lake.create("unused", SCHEMA, store=open_store(f"memory://diff-{uuid4().hex}"))
    table.append(rows(0, 10))
    for at, (what, number) in enumerate(steps):
        _apply(table, what, number, 100 * (at + 1))
    seen: dict[int, dict[int, Any]] = {n: contents(table.checkout(n)) for n in range(1, table.version + 1)}
    pairs = [*product(list(seen)[1:4:2], list(seen)[-2:]), (table.version, 2)]
    for one, two in pairs:
        found = table.diff(one, two)
        before, after = seen[one], seen[two]
        assert set(found.added.tolist()) == after.keys() - before.keys()
        assert set(found.removed.tolist()) == before.keys() - after.keys()
        assert found.changed.tolist() == sorted(
            i for i in before.keys() & after.keys() if before[i] != after[i]
        )
        assert found.added.tolist() == sorted(found.added.tolist())


def test_moves_read_no_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction moves every row and changes none: records tell so, nothing is read. spec: VER-8"""
    table = make(open_store(f"memory://diff-{uuid4().hex}"), 5, 7, 3).tag("small", 4)
    table.compact()
    monkeypatch.setattr(table.engine, "take", None)
    found = table.diff("small")
    assert [len(one) for one in (found.added, found.removed, found.changed)] == [0, 0, 0]
    assert table.diff(2, "small").added.tolist() == list(range(5, 15))
    with pytest.raises(NotFoundError):
        table.diff(99)
