"""What every store must do, run on each kind of store: local disk, memory, S3 by moto, S3 by RangeServer.

The clauses are those of ``spec/storage.md``.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lake_format.errors import AlreadyExistsError, CorruptionError, InvalidInputError, NotFoundError
from lake_format.store import ByteRange, Store

BAD_PATHS = [
    "",
    "/x",
    "x/",
    "a//b",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    "a\\b",
    "a\x00b",
    "a\nb",
    ".x",
    "a/.x",
]


def paths(store: Store, prefix: str = "", after: str | None = None) -> list[str]:
    return [info.path for info in store.list(prefix, after=after)]


def test_create_then_read_back(any_store: Store) -> None:
    """# spec: STO-10, STO-14."""
    data = os.urandom(10_000)
    any_store.create("a/b=1/data-0.bin", data)
    assert any_store.get("a/b=1/data-0.bin") == data
    assert any_store.size("a/b=1/data-0.bin") == 10_000
    any_store.create("empty", b"")
    assert any_store.get("empty") == b""
    assert any_store.size("empty") == 0


def test_create_refuses_a_taken_path_and_changes_nothing(any_store: Store) -> None:
    """# spec: STO-11."""
    any_store.create("v/1", b"first")
    with pytest.raises(AlreadyExistsError, match="v/1"):
        any_store.create("v/1", b"second, longer")
    with pytest.raises(AlreadyExistsError):
        any_store.create("v/1", b"first")  # not even with the same bytes
    assert any_store.get("v/1") == b"first"
    assert paths(any_store) == ["v/1"]


def test_one_of_sixteen_concurrent_creators_wins(any_store: Store) -> None:
    """# spec: STO-11."""
    start = threading.Barrier(16)

    def attempt(number: int) -> int | None:
        start.wait()
        try:
            any_store.create("race/7", bytes([number]) * 2_000)
        except AlreadyExistsError:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(attempt, range(16)) if number is not None]
    assert len(winners) == 1
    assert any_store.get("race/7") == bytes(winners) * 2_000


def test_one_of_eight_concurrent_writers_wins(any_store: Store) -> None:
    """# spec: STO-11, STO-13."""
    start = threading.Barrier(8)

    def attempt(number: int) -> int | None:
        writer = any_store.open_writer("race/file")
        for _ in range(10):
            writer.write(bytes([number]) * 1_000)
        start.wait()
        try:
            writer.close()
        except AlreadyExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(attempt, range(8)) if number is not None]
    assert len(winners) == 1
    assert any_store.get("race/file") == bytes(winners) * 10_000
    assert paths(any_store) == ["race/file"]


def test_put_replaces(any_store: Store) -> None:
    """# spec: STO-15."""
    any_store.put("hint", b"one")
    any_store.put("hint", b"two and more")
    assert any_store.get("hint") == b"two and more"


def test_absent_objects(any_store: Store) -> None:
    """# spec: STO-14."""
    any_store.create("folder/x", b"x")
    for path in ("nothing", "folder", "folder/y", "folder/x/y"):
        for read in (any_store.get, any_store.size, lambda path: any_store.get_suffix(path, 3)):
            with pytest.raises(NotFoundError, match=path):
                read(path)
        with pytest.raises(NotFoundError, match=path):
            any_store.get_ranges([ByteRange("folder/x", 0, 1), ByteRange(path, 0, 1)])


def test_ranges_come_in_order_exact(any_store: Store) -> None:
    """# spec: STO-16."""
    contents = {f"f/{number}": os.urandom(3_000 + number) for number in range(3)}
    for path, data in contents.items():
        any_store.create(path, data)
    randomness = random.Random(5)
    wanted = []
    for _ in range(60):
        path = randomness.choice(sorted(contents))
        offset = randomness.randrange(len(contents[path]))
        wanted.append(ByteRange(path, offset, randomness.randrange(len(contents[path]) - offset + 1)))
    found = any_store.get_ranges(wanted)
    assert found == [contents[each.path][each.offset : each.offset + each.length] for each in wanted]
    assert any_store.get_ranges([]) == []


@pytest.mark.parametrize(
    ("offset", "length"), [(90, 20), (100, 1), (5_000, 10), (0, 101), (0, 1 << 50), (1 << 62, 4)]
)
def test_a_range_past_the_end_is_corruption(any_store: Store, offset: int, length: int) -> None:
    """# spec: STO-16."""
    any_store.create("short", bytes(100))
    with pytest.raises(CorruptionError, match=r"short has 100 bytes"):
        any_store.get_ranges([ByteRange("short", 0, 100), ByteRange("short", offset, length)])


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (5, -1), (-5, 0)])
def test_an_impossible_range_is_corruption(any_store: Store, offset: int, length: int) -> None:
    """# spec: STO-16."""
    any_store.create("short", bytes(100))
    with pytest.raises(CorruptionError, match="impossible"):
        any_store.get_ranges([ByteRange("short", offset, length)])


def test_suffix(any_store: Store) -> None:
    """# spec: STO-17."""
    any_store.create("s", b"0123456789")
    any_store.create("none", b"")
    assert any_store.get_suffix("s", 4) == (b"6789", 10)
    assert any_store.get_suffix("s", 10) == (b"0123456789", 10)
    assert any_store.get_suffix("s", 1000) == (b"0123456789", 10)
    assert any_store.get_suffix("s", 0) == (b"", 10)
    assert any_store.get_suffix("none", 8) == (b"", 0)
    with pytest.raises(InvalidInputError):
        any_store.get_suffix("s", -1)


def test_list_is_sorted_and_complete(any_store: Store) -> None:
    """# spec: STO-18."""
    # '-' and '.' sort before '/', so that a walk by folder name would get these wrong.
    names = ["a/x", "a-b/x", "a.b", "a/b/c", "ab", "a/b-c", "B/1", "_log/00", "z=1/f"]
    for name in random.Random(1).sample(names, len(names)):
        any_store.create(name, name.encode())
    assert paths(any_store) == sorted(names)
    assert paths(any_store, "a/") == ["a/b-c", "a/b/c", "a/x"]
    assert paths(any_store, "a/b/") == ["a/b/c"]
    assert paths(any_store, "nowhere/") == []
    info = next(iter(any_store.list("a/")))
    assert (info.path, info.size) == ("a/b-c", 5)
    assert 1.6e9 < info.modified_at < 1e11


def test_list_after_skips(any_store: Store) -> None:
    """# spec: STO-18."""
    names = [f"v/{number:03}/part" for number in range(12)] + ["v-1", "w/0"]
    for name in names:
        any_store.create(name, b"")
    for after in ["", "v/005/part", "v/005/pa", "v/005", "v/0055", "u", "w", "x", "v/", "v-1"]:
        assert paths(any_store, "", after) == sorted(name for name in names if name > after), after
        assert paths(any_store, "v/", after) == sorted(
            n for n in names if n > after and n.startswith("v/")
        ), after


def test_list_prefix_is_a_folder(any_store: Store) -> None:
    """# spec: STO-18."""
    for prefix in ("a", "a/b", "/", "../", "a//", "a/../"):
        with pytest.raises(InvalidInputError):
            list(any_store.list(prefix))


def test_delete_is_idempotent(any_store: Store) -> None:
    """# spec: STO-19."""
    any_store.create("d/x", b"x")
    any_store.create("d/y", b"y")
    any_store.delete("d/x")
    any_store.delete("d/x")
    any_store.delete("never/there")
    any_store.delete("d")  # a folder is no object
    assert paths(any_store) == ["d/y"]
    any_store.create("d/x", b"again")
    assert any_store.get("d/x") == b"again"


@pytest.mark.parametrize("path", BAD_PATHS)
def test_no_call_takes_a_path_that_leaves_the_root(any_store: Store, path: str) -> None:
    """# spec: STO-5."""
    calls: list[Callable[[], object]] = [
        lambda: any_store.get(path),
        lambda: any_store.get_ranges([ByteRange(path, 0, 1)]),
        lambda: any_store.get_suffix(path, 1),
        lambda: any_store.size(path),
        lambda: any_store.create(path, b"x"),
        lambda: any_store.put(path, b"x"),
        lambda: any_store.open_writer(path),
        lambda: any_store.delete(path),
        lambda: any_store.local_path(path),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="object path"):
            call()
    assert paths(any_store) == []


def test_names_that_partitioned_imports_bring_are_kept_as_they_are(any_store: Store) -> None:
    """# spec: STO-6."""
    for name in ("day=2024-01-01 00%3A00/x y.parquet", "c=a%20b/é+ü&z#?.bin"):
        any_store.create(name, name.encode())
        assert any_store.get(name) == name.encode()
        assert name in paths(any_store)


# -- writers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 100_000, 9_000_001])
def test_writer_makes_the_object_visible_whole_at_close(any_store: Store, size: int) -> None:
    """# spec: STO-13."""
    data = os.urandom(size)
    with any_store.open_writer("w/file") as writer:
        for start in range(0, size, 3_333_333):
            assert writer.write(memoryview(data)[start : start + 3_333_333]) == len(
                data[start : start + 3_333_333]
            )
        assert writer.tell() == size
        assert paths(any_store) == []
        with pytest.raises(NotFoundError):
            any_store.size("w/file")
        assert not writer.closed
    assert writer.closed
    assert any_store.size("w/file") == size
    assert any_store.get("w/file") == data


def test_writer_copies_what_it_is_given(any_store: Store) -> None:
    """A caller's buffer may be used again as soon as ``write`` returns."""
    buffer = bytearray(b"a" * 1_200_000)
    with any_store.open_writer("w/file") as writer:
        for letter in b"abcdefghij":
            buffer[:] = bytes([letter]) * len(buffer)
            writer.write(buffer)
    assert any_store.get("w/file") == b"".join(bytes([letter]) * len(buffer) for letter in b"abcdefghij")


@pytest.mark.parametrize("size", [100, 10_000_000])
def test_writer_given_up_leaves_nothing(any_store: Store, size: int) -> None:
    """# spec: STO-13."""
    writer = any_store.open_writer("w/file")

    def fail_half_way() -> None:
        with writer:
            writer.write(bytes(size))
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    writer.abort()
    assert paths(any_store) == []
    with pytest.raises(InvalidInputError, match="closed"):
        writer.write(b"x")
    with pytest.raises(InvalidInputError, match="closed"):
        writer.close()
    any_store.create("w/file", b"free")


@pytest.mark.parametrize("size", [100, 10_000_000])
@pytest.mark.parametrize("same", [True, False])
def test_writer_refuses_a_taken_path(any_store: Store, size: int, same: bool) -> None:
    """# spec: STO-11, STO-13."""
    there = bytes(size) if same else b"faster"
    writer = any_store.open_writer("w/file")
    writer.write(bytes(size))
    any_store.create("w/file", there)
    with pytest.raises(AlreadyExistsError, match="w/file"):
        writer.close()
    writer.abort()
    assert any_store.get("w/file") == there
    assert paths(any_store) == ["w/file"]


def test_abort_after_close_is_harmless(any_store: Store) -> None:
    """# spec: STO-13."""
    with any_store.open_writer("w/file") as writer:
        writer.write(b"x")
    writer.abort()
    assert any_store.get("w/file") == b"x"


def test_a_writer_is_a_file_for_pyarrow(any_store: Store) -> None:
    table = pa.table({"x": list(range(50_000))})
    with any_store.open_writer("w/t.parquet") as writer, pq.ParquetWriter(writer, table.schema) as parquet:
        parquet.write_table(table)
    assert pq.read_table(pa.BufferReader(any_store.get("w/t.parquet"))).equals(table)


def test_uri_and_local_path(any_store: Store) -> None:
    any_store.create("a/x", b"mapped")
    path = any_store.local_path("a/x")
    if path is not None:
        with open(path, "rb") as file:
            assert file.read() == b"mapped"
    assert any_store.uri in repr(any_store)
