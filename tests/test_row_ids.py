"""Row-id sequences: exact there and back, the smaller encoding taken, damage never read as other ids."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.row_ids import decode_row_ids, encode_row_ids, row_id_limits, row_id_runs

_ID = st.integers(0, 2**63 - 1)
_RUN = st.tuples(st.integers(0, 2**40), st.integers(1, 300)).map(lambda run: list(range(run[0], sum(run))))
_SEQUENCES = st.one_of(
    st.lists(_ID, min_size=1, max_size=200),
    st.lists(_RUN, min_size=1, max_size=20).map(lambda runs: [row_id for run in runs for row_id in run]),
    st.permutations(list(range(50, 90))),
)


def by_the_book(data: bytes, rows: int) -> list[int]:
    """A decoder written from the specification alone. spec: RID-1, RID-2"""
    kind, width, zero, count, base = struct.unpack_from("<BBHIQ", data)
    assert zero == 0
    entries = [int.from_bytes(data[16 + i * width : 16 + (i + 1) * width], "little") for i in range(count)]
    if kind == 2:
        assert (count, len(data)) == (rows, 16 + count * width)
        return [base + entry for entry in entries]
    assert (kind, len(data)) == (1, 16 + count * (width + 4))
    lengths = struct.unpack_from(f"<{count}I", data, 16 + count * width)
    return [base + entry + i for entry, length in zip(entries, lengths, strict=True) for i in range(length)]


@given(_SEQUENCES)
def test_round_trip(row_ids: list[int]) -> None:
    """spec: RID-1, RID-2"""
    data = encode_row_ids(np.array(row_ids, np.uint64))
    assert decode_row_ids(data, len(row_ids)).tolist() == row_ids
    assert by_the_book(data, len(row_ids)) == row_ids


def test_the_smaller_encoding_is_taken() -> None:
    """spec: RID-3"""
    assert len(encode_row_ids(np.arange(1_000_000, dtype=np.uint64))) == 16 + 4 + 4
    scattered = np.arange(0, 20_000, 2, dtype=np.uint64)
    assert len(encode_row_ids(scattered)) == 16 + 2 * len(scattered)
    assert len(encode_row_ids(np.array([2**62], np.uint64))) == 16 + 1


def test_ids_up_to_the_limit() -> None:
    """spec: RID-3"""
    top = [2**63 - 3, 2**63 - 2, 2**63 - 1]
    assert decode_row_ids(encode_row_ids(np.array(top, np.uint64)), 3).tolist() == top
    for beyond in ([2**63], [0, 2**64 - 1]):
        with pytest.raises(InvalidInputError):
            encode_row_ids(np.array(beyond, np.uint64))
    with pytest.raises(InvalidInputError):
        encode_row_ids(np.array([], np.uint64))


def _array(width: int, count: int, base: int, *offsets: int) -> bytes:
    packed = b"".join(offset.to_bytes(width, "little") for offset in offsets)
    return struct.pack("<BBHIQ", 2, width, 0, count, base) + packed


def _runs(count: int, base: int, offsets: list[int], lengths: list[int]) -> bytes:
    head = struct.pack("<BBHIQ", 1, 1, 0, count, base)
    return head + bytes(offsets) + b"".join(length.to_bytes(4, "little") for length in lengths)


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"", 1),
        (_array(1, 2, 0, 0, 1)[:-1], 2),
        (_array(1, 2, 0, 0, 1) + b"\0", 2),
        (_array(1, 2, 0, 0, 1), 3),
        (_array(1, 2, 0, 0, 1), 1),
        (_array(3, 1, 0, 0), 1),
        (_array(1, 1, 2**63, 0), 1),
        (_array(1, 1, 2**63 - 1, 1), 1),
        (_array(8, 1, 2**63, 2**63), 1),
        (_runs(1, 0, [0], [2]), 3),
        (_runs(2, 0, [0, 5], [2, 0]), 2),
        (_runs(1, 2**63 - 1, [0], [2]), 2),
        (_runs(1, 2**63 - 1, [255], [2]), 2),
        (b"\x03" + _array(1, 1, 0, 0)[1:], 1),
        (_array(1, 1, 0, 0)[:2] + b"\x01" + _array(1, 1, 0, 0)[3:], 1),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, rows: int) -> None:
    """spec: RID-3"""
    with pytest.raises(CorruptionError):
        decode_row_ids(data, rows)


@given(_SEQUENCES, st.data())
@settings(max_examples=150)
def test_damage_is_an_error_of_ours_or_another_valid_sequence(
    row_ids: list[int], data: st.DataObject
) -> None:
    """Sequences carry no checksum of their own (the manifest has it): damage must still never crash a reader."""
    good = encode_row_ids(np.array(row_ids, np.uint64))
    position = data.draw(st.integers(0, len(good) - 1))
    bad = good[:position] + data.draw(st.binary(min_size=1, max_size=9)) + good[position + 1 :]
    try:
        found = decode_row_ids(bad, len(row_ids))
    except CorruptionError:
        return
    assert len(found) == len(row_ids)
    assert int(found.max()) < 2**63


@given(st.sets(st.integers(0, 400), min_size=1))
def test_runs_of_a_set(members: set[int]) -> None:
    """spec: TAB-9"""
    ordered = sorted(members)
    first, lengths = row_id_runs(encode_row_ids(np.array(ordered, np.uint64)), len(ordered))
    runs = list(zip(first.tolist(), lengths.tolist(), strict=True))
    assert [row_id for start, size in runs for row_id in range(start, start + size)] == ordered
    assert all(start + size < later for (start, size), (later, _) in itertools.pairwise(runs))


def test_a_set_out_of_order_is_refused() -> None:
    """spec: TAB-9"""
    for members in ([3, 2], [5, 5], [1, 2, 3, 1]):
        with pytest.raises(CorruptionError, match="ascending"):
            row_id_runs(encode_row_ids(np.array(members, np.uint64)), len(members))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=40, unique=True))
def test_limits_are_those_of_the_ids(ids: list[int]) -> None:
    """spec: RID-1"""
    runs = np.concatenate([np.arange(one * 8, one * 8 + one % 8 + 1, dtype=np.uint64) for one in ids])
    for some in (np.array(ids, np.uint64), runs):
        data = encode_row_ids(some)
        assert row_id_limits(data, len(some)) == (int(some.min()), int(some.max()))
        with pytest.raises(CorruptionError):
            row_id_limits(data[:-1], len(some))
        with pytest.raises(CorruptionError):
            row_id_limits(data, 0)
