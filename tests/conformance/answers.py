"""How the suite compares answers: rows without order, neighbours by id."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from values import normal, raw

import lake_format as lake
from conformance.engine import EngineUnderTest, supported


def needs(engine: EngineUnderTest, capability: str) -> None:
    if not supported(engine, capability):
        pytest.skip(f"{engine.name} has no such thing")


def label(engine: EngineUnderTest) -> str:
    return engine.name.split(",")[0].lower()


def same_rows(found: pa.Table, expected: pa.Table, what: str) -> None:
    assert found.column_names == expected.column_names, what
    assert sorted(values(found), key=repr) == sorted(values(expected), key=repr), what


def values(table: pa.Table) -> list[Any]:
    columns = [[normal(value) for value in raw(column)] for column in table.columns]
    return list(zip(*columns, strict=True))


def exact(table: lake.Table, vector: list[float], k: int, where: Any = None) -> list[int]:
    found = table.search(vector, k, exact=True, where=where, select=["id"])
    return [int(one) for one in found.to_arrow().column("id").to_pylist()]


def agree(found: list[int], expected: list[int]) -> None:
    """The same ids; equal distances may swap, and an index may miss one in ten."""
    assert len(found) == len(set(found)) == len(expected)
    assert len(set(found) & set(expected)) >= 0.9 * len(expected)


def brute_force(table: pa.Table, vector: list[float], k: int) -> list[int]:
    known = [
        (one, other) for one, other in zip(*table.to_pydict().values(), strict=True) if other is not None
    ]
    distances = [float(np.linalg.norm(np.float32(other) - np.float32(vector))) for _, other in known]
    return [known[place][0] for place in np.argsort(distances, kind="stable")[:k]]
