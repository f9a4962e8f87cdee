"""The local store's own promises: atomic and durable creation, links that stay inside, errors of the disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    NotWrittenError,
    StorageError,
)
from lake_format.store import ByteRange, durable
from lake_format.store.local import LocalStore

WRITE_FOREVER = """
import errno, os, sys
from lake_format.store.local import LocalStore
if sys.argv[2] == "without_links":
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")
    os.link = refuse
store = LocalStore(sys.argv[1])
print("ready", flush=True)
for number in range(1_000_000):
    store.create(f"f{number % 7}/{number:06}", bytes([number % 251]) * 300_000)
"""


def no_links(*_: object, **__: object) -> None:
    """What link(2) says on a file system without hard links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("way", ["with_links", "without_links"])
def test_a_killed_process_leaves_whole_objects_only(tmp_path: Path, way: str) -> None:
    """# spec: STO-12, STO-21."""
    seen = 0
    for delay in (0.05, 0.15):
        root = tmp_path / f"{delay}"
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, str(root), way], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
        store = LocalStore(root)
        for info in store.list(""):
            number = int(info.path.rpartition("/")[2])
            assert store.get(info.path) == bytes([number % 251]) * 300_000
            seen += 1
        # The next process can go on where the dead one stood, in the folder it held a lock of.
        for folder in range(7):
            store.create(f"f{folder}/next", b"")
        store.remove_leftovers(older_than=-1)
        assert not [name for _, _, names in os.walk(root) for name in names if durable.is_temporary(name)]
    assert seen > 0


def test_create_syncs_file_then_names_it_then_syncs_the_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """# spec: STO-12, STO-20."""
    steps: list[str] = []
    real_sync, real_link = os.fsync, os.link

    def sync(descriptor: int) -> None:
        steps.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(tmp_path)))
        real_sync(descriptor)

    def link(source: str, target: str) -> None:
        steps.append("link " + target.removeprefix(str(tmp_path)))
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    store = LocalStore(tmp_path / "root")
    store.create("a/b/x", b"data")
    named = steps.index("link /root/a/b/x")
    assert steps[named - 1].startswith("sync /root/a/b/.")
    assert steps[named - 1].endswith(".tmp")
    assert steps[named + 1] == "sync /root/a/b"
    # The new folders' own names: root in tmp_path, a in root, b in a.
    assert {"sync ", "sync /root", "sync /root/a"} <= set(steps)
    steps.clear()
    store.create("a/b/y", b"data")  # known folders cost nothing further
    assert [step.partition(" ")[0] for step in steps] == ["sync", "link", "sync"]


def test_without_hard_links_one_of_sixteen_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """# spec: STO-11, STO-21."""
    real_rename = os.rename

    def rename_slowly(source: str, target: str) -> None:
        time.sleep(0.002)  # widens the gap between looking and renaming: without the lock several would win
        real_rename(source, target)

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "rename", rename_slowly)
    stores = [LocalStore(tmp_path) for _ in range(16)]
    for round_number in range(5):
        start = threading.Barrier(16)

        def attempt(
            number: int, path: str = f"race/{round_number}", start: threading.Barrier = start
        ) -> bool:
            start.wait()
            try:
                stores[number].create(path, bytes([number]) * 50_000)
            except AlreadyExistsError:
                return False
            return True

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(attempt, range(16)))
        assert sum(won) == 1
        assert stores[0].get(f"race/{round_number}") == bytes([won.index(True)]) * 50_000
    assert [info.path for info in stores[0].list("")] == [f"race/{number}" for number in range(5)]


def test_a_link_whose_answer_got_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS a repeated link(2) may find its own work and say that the name is taken; spec: STO-20."""
    real_link = os.link

    def link_twice(source: str, target: str) -> None:
        real_link(source, target)
        real_link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    store = LocalStore(tmp_path)
    store.create("x", b"mine")
    assert store.get("x") == b"mine"
    with pytest.raises(AlreadyExistsError):
        store.create("x", b"other")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    monkeypatch.setattr(
        durable, "new_temporary", lambda folder: (os.open("/dev/full", os.O_WRONLY), f"{folder}/.never.tmp")
    )
    with pytest.raises(StorageError, match=r"x.*disk is full") as caught:
        store.create("x", b"data")
    assert "free some space" in (caught.value.fix or "")
    writer = store.open_writer("y")
    with pytest.raises(StorageError, match="disk is full"):
        writer.write(bytes(5_000_000))
    with pytest.raises(StorageError, match="earlier write"):
        writer.close()
    assert list(store.list("")) == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EDQUOT, "disk is full or its quota"),
        (errno.EMFILE, "too many open files"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_errors_of_the_disk_say_what_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
) -> None:
    store = LocalStore(tmp_path)
    store.create("a/x", b"1")

    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for call in (
            lambda: store.create("a/y", b""),
            lambda: store.get("a/x"),
            lambda: store.put("a/x", b""),
        ):
            with pytest.raises(StorageError, match=f"{tmp_path}/a/[xy].*{words}"):
                call()
    assert store.get("a/x") == b"1"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_is_refused_before_the_object_has_its_name_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Afterwards it may be there, and the error does not deny it. # spec: STO-20"""
    store = LocalStore(tmp_path)
    store.create("a/x", b"1")

    def refuse(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    for name in ("new_temporary", "sync_file", "publish_new", "sync_folder"):
        with monkeypatch.context() as patched:
            patched.setattr(f"lake_format.store.durable.{name}", refuse)
            with pytest.raises(StorageError) as caught:
                store.create("a/y", b"2")
        uncertain = name == "sync_folder" or (name == "publish_new" and code == errno.EIO)
        assert isinstance(caught.value, NotWrittenError) != uncertain
        if name == "sync_folder":
            store.delete("a/y")
        assert [info.path for info in store.list("")] == ["a/x"]


def test_the_names_of_folders_are_made_durable_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's own name is synced before the first object in it counts, also one that came later. spec: STO-22"""
    synced: list[str] = []
    sync_folder = durable.sync_folder

    def watch(folder: str) -> None:
        synced.append(str(Path(folder).relative_to(tmp_path)))
        sync_folder(folder)

    for path in ("data/x", "_lake/keys/x", "_lake/versions/x"):
        LocalStore(tmp_path).create(path, b"")
    monkeypatch.setattr("lake_format.store.durable.sync_folder", watch)
    store = LocalStore(tmp_path)
    store.create("data/a", b"1")
    assert synced == ["data", "."]
    synced.clear()
    store.create("_lake/keys/a", b"1")
    assert synced == ["_lake/keys", "_lake"], "the name of _lake was there when the root was synced"
    synced.clear()
    store.create("_lake/versions/a", b"1")
    assert synced == ["_lake/versions"]
    (tmp_path / "_lake/later").mkdir()
    synced.clear()
    store.create("_lake/later/a", b"1")
    assert synced == ["_lake/later", "_lake"]


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Run as nobody if this is root, whom no mode keeps out."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_permission(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "locked")
    store.create("x", b"1")
    (tmp_path / "locked").chmod(0o000)
    try:
        with as_ordinary_user():
            for call in (
                lambda: store.create("y", b""),
                lambda: store.get("x"),
                lambda: list(store.list("")),
            ):
                with pytest.raises(StorageError, match="permission denied"):
                    call()
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert [info.path for info in store.list("")] == ["x"]


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    """# spec: STO-4."""
    store = LocalStore(tmp_path)
    store.create("a", b"1")
    with pytest.raises(StorageError, match="a file stands where a folder is needed"):
        store.create("a/b", b"2")
    store.create("f/x", b"3")
    with pytest.raises(AlreadyExistsError):
        store.create("f", b"4")
    with pytest.raises(StorageError):
        store.put("f", b"4")
    assert [info.path for info in store.list("")] == ["a", "f/x"]


def test_a_file_truncated_behind_our_back(tmp_path: Path) -> None:
    """# spec: STO-16."""
    store = LocalStore(tmp_path)
    store.create("x", bytes(1000))
    os.truncate(tmp_path / "x", 600)
    with pytest.raises(CorruptionError, match=r"x has 600 bytes, but bytes 500 to 700 are expected"):
        store.get_ranges([ByteRange("x", 500, 200)])


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A root with links that lead out, and links that stay inside."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "secret").write_bytes(b"secret")
    (outside / "deep" / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "x").write_bytes(b"inside")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "dangling").symlink_to(tmp_path / "nothing")
    (root / "alias").symlink_to(root / "real")
    (root / "alias_file").symlink_to("real/x")
    return root


@pytest.mark.parametrize("path", ["folder/secret", "folder/deep/secret", "file", "dangling"])
def test_links_that_lead_out_are_refused(linked: Path, path: str) -> None:
    """# spec: STO-7."""
    store = LocalStore(linked)
    for read in (store.get, store.size, store.local_path, lambda path: store.get_suffix(path, 1)):
        with pytest.raises(InvalidInputError, match="link that leads out of the root"):
            read(path)
    with pytest.raises(InvalidInputError, match="link that leads out"):
        store.get_ranges([ByteRange("real/x", 0, 1), ByteRange(path, 0, 1)])


def test_nothing_is_written_or_removed_through_a_link_that_leads_out(linked: Path) -> None:
    """# spec: STO-7."""
    store = LocalStore(linked)
    for write in (
        lambda: store.create("folder/new", b""),
        lambda: store.put("folder/secret", b""),
        lambda: store.open_writer("folder/deep/new"),
        lambda: store.delete("folder/secret"),
        lambda: list(store.list("folder/")),
    ):
        with pytest.raises(InvalidInputError, match="link that leads out"):
            write()
    store.put("file", b"replaced")  # replaces the link itself, not what it points to
    store.delete("dangling")
    outside = linked.parent / "outside"
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(os.listdir(outside)) == ["deep", "secret"]
    assert not (linked.parent / "nothing").exists()


def test_links_that_stay_inside_are_followed(linked: Path) -> None:
    """# spec: STO-7."""
    store = LocalStore(linked)
    assert store.get("alias/x") == b"inside"
    assert store.get("alias_file") == b"inside"
    assert store.size("alias_file") == 6
    assert [info.path for info in store.list("")] == ["real/x"]


def test_links_are_followed_anywhere_on_request(linked: Path) -> None:
    """# spec: STO-7."""
    store = LocalStore(linked, follow_symlinks=True)
    assert store.get("folder/deep/secret") == b"secret"
    assert store.get("file") == b"secret"
    assert [info.path for info in store.list("")] == ["alias_file", "file", "real/x"]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    store = LocalStore(tmp_path / "root")
    store.create("a/x", b"x")
    assert store.get("a/x") == b"x"
    assert (tmp_path / "real" / "a" / "x").exists()


def test_what_is_not_a_file_is_no_object(tmp_path: Path) -> None:
    """A named pipe must not make a reader wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    store = LocalStore(tmp_path)
    for read in (store.get, store.size, store.local_path):
        with pytest.raises(NotFoundError):
            read("pipe")
    assert list(store.list("")) == []


def test_listing_shows_objects_only(tmp_path: Path) -> None:
    """# spec: STO-18, STO-22."""
    store = LocalStore(tmp_path)
    store.create("a/x", b"")
    writer = store.open_writer("a/y")
    writer.write(bytes(3_000_000))
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_bytes(b"")
    (tmp_path / "back\\slash").write_bytes(b"")
    assert [info.path for info in store.list("")] == ["a/x"]
    writer.abort()


def old_temporary(folder: Path) -> Path:
    """The unfinished file in a folder, made to look as if nobody had touched it for long."""
    (found,) = [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    os.utime(found, (1, 1))
    return found


def test_leftovers_of_dead_writers_are_removed_by_age(tmp_path: Path) -> None:
    """spec: STO-22"""
    store = LocalStore(tmp_path)
    store.create("a/x", b"")
    (tmp_path / "a" / f".{'0' * 32}.tmp").touch()  # what a killed process leaves
    assert store.remove_leftovers(older_than=3600) == 0
    old_temporary(tmp_path / "a")
    assert store.remove_leftovers(older_than=3600) == 1
    assert [info.path for info in store.list("")] == ["a/x"]


def test_the_file_of_a_living_writer_stays_however_long_it_pauses(tmp_path: Path) -> None:
    """spec: STO-22"""
    store = LocalStore(tmp_path)
    writer = store.open_writer("a/x")
    writer.write(b"x")
    old_temporary(tmp_path / "a")
    assert store.remove_leftovers(older_than=0) == 0
    writer.close()
    assert store.get("a/x") == b"x"


def test_without_locks_a_writer_that_was_taken_for_dead_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    store = LocalStore(tmp_path)
    writer = store.open_writer("a/x")
    old_temporary(tmp_path / "a")
    assert store.remove_leftovers(older_than=3600) == 1
    with pytest.raises(StorageError):
        writer.close()  # it comes back to life too late
    assert list(store.list("")) == []


def test_without_sync_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("synced"))
    store = LocalStore(tmp_path, sync=False)
    store.create("a/b/x", b"x")
    store.put("a/b/x", b"y")
    assert store.get("a/b/x") == b"y"
