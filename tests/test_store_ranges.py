"""Reading many ranges: the same bytes as one by one, in few requests, in one round."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.range_server import RangeServer

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store import ByteRange, forget_memory, open_store, read_coalesced
from lake_format.store.metered import MeteredStore
from lake_format.store.ranges import plan_reads

SIZE = 5_000
CONTENTS = {f"f{number}": random.Random(number).randbytes(SIZE) for number in range(3)}


@pytest.fixture(scope="module")
def store() -> MeteredStore:
    store = open_store("memory://ranges")
    for path, data in CONTENTS.items():
        store.create(path, data)
    yield MeteredStore(store)
    forget_memory("memory://ranges")


one_range = st.builds(
    lambda path, offset, length: ByteRange(path, offset, min(length, SIZE - offset)),
    st.sampled_from(sorted(CONTENTS)),
    st.integers(0, SIZE),
    st.integers(0, 700),
)


@given(st.lists(one_range, max_size=40), st.integers(0, 500), st.integers(1, 3_000))
def test_any_ranges_come_back_exact(
    store: MeteredStore, ranges: list[ByteRange], gap: int, max_request: int
) -> None:
    """Any order, repeats, overlaps and empty ranges; requests keep to gap and max_request."""
    before = store.usage()
    found = read_coalesced(store, ranges, gap=gap, max_request=max_request)
    assert [bytes(each) for each in found] == [
        CONTENTS[each.path][each.offset : each.offset + each.length] for each in ranges
    ]
    used = store.usage().since(before)
    assert used.rounds <= 1
    plan = plan_reads(ranges, gap=gap, max_request=max_request)
    assert used.total_requests == len(plan.requests) <= len(ranges)
    longest = max((each.length for each in ranges), default=0)
    assert all(request.length <= max(max_request, longest) for request in plan.requests)


def test_near_ranges_share_a_request_and_far_ones_do_not() -> None:
    ranges = [ByteRange("a", 0, 10), ByteRange("a", 110, 10), ByteRange("a", 221, 10), ByteRange("b", 231, 5)]
    plan = plan_reads(ranges[::-1], gap=100, max_request=1000)
    assert plan.requests == [ByteRange("b", 231, 5), ByteRange("a", 0, 120), ByteRange("a", 221, 10)]
    assert len(plan_reads(ranges, gap=101, max_request=1000).requests) == 2
    assert len(plan_reads(ranges, gap=101, max_request=120).requests) == 3
    assert len(plan_reads(ranges, gap=0, max_request=1000).requests) == 4


def test_a_long_run_is_cut_so_that_its_pieces_travel_side_by_side() -> None:
    ranges = [ByteRange("a", 100 * number, 100) for number in range(1000)]
    plan = plan_reads(ranges, gap=0, max_request=10_000)
    assert [request.length for request in plan.requests] == [10_000] * 10
    longer = plan_reads([ByteRange("a", 0, 50_000), *ranges], gap=0, max_request=10_000)
    assert [request.length for request in longer.requests] == [50_000, *[10_000] * 5]


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (2, -1), (1 << 62, 1 << 62), (1 << 64, 1)])
def test_impossible_ranges_are_refused(store: MeteredStore, offset: int, length: int) -> None:
    with pytest.raises(CorruptionError):
        read_coalesced(store, [ByteRange("f0", 0, 1), ByteRange("f0", offset, length)])
    with pytest.raises(CorruptionError):
        read_coalesced(store, [ByteRange("f0", offset, length)])


def test_a_range_past_the_end_is_refused_when_joined_with_a_good_one(store: MeteredStore) -> None:
    with pytest.raises(CorruptionError, match="f0 has 5000 bytes"):
        read_coalesced(store, [ByteRange("f0", 4_900, 100), ByteRange("f0", 4_990, 20)])


def test_senseless_limits_are_refused(store: MeteredStore) -> None:
    with pytest.raises(InvalidInputError):
        read_coalesced(store, [], gap=-1)
    with pytest.raises(InvalidInputError):
        read_coalesced(store, [], max_request=0)


def test_a_hundred_ranges_of_ten_objects_are_one_round(range_server: Callable[..., RangeServer]) -> None:
    server = range_server()
    for number in range(10):
        server.backing.create(f"t/{number}", bytes([number]) * 400_000)
    remote = open_store(server.uri("t"), server.storage_options)
    ranges = [ByteRange(str(n % 10), 38_000 * (n // 10), 500) for n in range(100)]
    random.Random(0).shuffle(ranges)
    found = read_coalesced(remote, ranges, gap=1_000)
    assert [bytes(each) for each in found] == [bytes([int(each.path)]) * 500 for each in ranges]
    assert (server.rounds(), server.count("GET"), server.bytes_sent()) == (1, 100, 50_000)
    server.reset()
    read_coalesced(remote, ranges, gap=40_000)
    assert (server.rounds(), server.count("GET"), server.count()) == (1, 10, 10)


def test_planning_a_thousand_ranges_is_cheap() -> None:
    """Far below the time of one request; the bound is loose for busy machines."""
    chooser = random.Random(2)
    ranges = [ByteRange(f"f{chooser.randrange(50)}", chooser.randrange(1 << 30), 512) for _ in range(1_000)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        plan_reads(ranges, gap=32_768, max_request=8 << 20)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
