"""Sets of row ids in version objects: few runs as lists, many as a packed sequence; what is damaged is refused."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from independent_bytes import row_id_set
from independent_reader import unpack, version_path

import lake_format as lake
from lake_format.row_ids import packed_runs, row_id_runs
from lake_format.row_runs import RowRuns

GAPS = st.lists(st.tuples(st.integers(1, 2**20), st.integers(1, 300)), min_size=1, max_size=200)


def runs(gaps: list[tuple[int, int]], start: int) -> RowRuns:
    found, end = [], start
    for gap, count in gaps:
        found.append((end + gap, count))
        end += gap + count
    return RowRuns(tuple(found))


@given(gaps=GAPS, start=st.sampled_from([0, 5, 2**31, 2**40, 2**62]))
def test_every_set_comes_back(gaps: list[tuple[int, int]], start: int) -> None:
    """spec: CON-14"""
    wanted = runs(gaps, start)
    told = json.loads(json.dumps(wanted.to_json()))
    assert isinstance(told, str) == (len(wanted.runs) >= 64)
    again = RowRuns.from_json(told, "rows")
    assert again == wanted
    assert hash(again) == hash(wanted)
    assert again.to_json() == told
    assert row_id_set(told) == list(wanted)
    packed = np.array(wanted.runs, np.uint64)
    text = base64.b64encode(packed_runs(packed[:, 0], packed[:, 1])).decode()
    assert RowRuns.from_json(text, "rows") == wanted, "however many there are"


def test_a_run_longer_than_a_length_can_say_is_written_in_pieces() -> None:
    wanted = RowRuns(((7, 2**33 + 5), (2**40, 1), (2**41, 2**32 - 1)))
    packed = np.array(wanted.runs, np.uint64)
    first, count = row_id_runs(packed_runs(packed[:, 0], packed[:, 1]))
    assert tuple(zip(first.tolist(), count.tolist(), strict=True)) == wanted.runs


def sequence(kind: int, width: int, base: int, offsets: list[int], lengths: list[int]) -> str:
    head = struct.pack("<BBHIQ", kind, width, 0, len(offsets), base)
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    body = struct.pack(f"<{len(offsets)}{letter}", *offsets) + struct.pack(f"<{len(lengths)}I", *lengths)
    return base64.b64encode(head + body).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "%%",
        "AAAA",
        sequence(2, 1, 0, [], []),
        sequence(3, 1, 0, [1], []),
        sequence(2, 1, 0, [3, 3], []),
        sequence(2, 1, 0, [3, 2], []),
        sequence(1, 1, 0, [3, 4], [2, 1]),
        sequence(1, 1, 0, [3], [0]),
        sequence(1, 1, 0, [3], [1, 1]),
        sequence(2, 8, 2**63 - 1, [0, 1], []),
        sequence(2, 8, 5, [2**64 - 1], []),
        sequence(1, 8, 2**63 - 5, [0], [6]),
    ],
)
def test_what_is_no_set_is_refused(text: str) -> None:
    """spec: CON-14"""
    with pytest.raises(lake.CorruptionError, match="rows of a run"):
        RowRuns.from_json(text, "rows of a run")


def test_an_update_of_scattered_rows_is_told_in_few_bytes(tmp_path: Path) -> None:
    """Four bytes a row and a third for base64, where lists took a dozen."""
    root = tmp_path / "items"
    table = lake.create(str(root), pa.schema([("id", pa.int64()), ("n", pa.int64())]), key="id")
    table.append({"id": list(range(0, 60_000)), "n": [0] * 60_000})
    ids = np.random.default_rng(1).choice(60_000, 6_000, replace=False)
    table.upsert({"id": ids, "n": np.ones(6_000, np.int64)})
    description, _ = unpack(version_path(root, table.version).read_bytes())
    (record,) = description["operations"]
    assert row_id_set(record["rows_updated"]) == sorted(ids.tolist())
    assert len(json.dumps(record)) < 6 * len(ids)
