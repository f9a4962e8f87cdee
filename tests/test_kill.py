"""Writers killed with SIGKILL at random moments: what they noted is there, all else is there wholly or not at all.

One table goes through all of it, so that each process starts from what the killed ones left behind.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from datetime import timedelta
from pathlib import Path

import pytest
from leftovers import left_over
from process_workers import SHARED, Place, read_notes, read_pairs, work_until_killed

from lake_format.store import open_store

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["process_workers", "lake_engines"])
PATIENCE = 60.0


def kill_writers(folder: Path, times: int, longest: float) -> None:
    place, chance = Place(str(folder / "table")), random.Random(times)
    place.create()
    appended: dict[int, int] = {}
    least = dict.fromkeys(range(SHARED), 0)
    for seed in range(1, times + 1):
        notes = folder / f"notes-{seed}"
        process = PROCESSES.Process(target=work_until_killed, args=(place, seed, notes), daemon=True)
        process.start()
        wait_for_a_note(notes)
        time.sleep(chance.uniform(0, longest))
        process.kill()
        process.join()
        for note in read_notes(notes):
            if note.kind == "append":
                appended[note.pair] = note.value
            elif note.kind == "upsert":
                least[note.pair] = note.value
        check_after_kill(place, appended, least)
    check_nothing_stays_behind(place, folder)


def wait_for_a_note(notes: Path) -> None:
    """Until the process is at work: before that there is nothing to interrupt."""
    until = time.monotonic() + PATIENCE
    while not (notes.exists() and notes.stat().st_size):
        assert time.monotonic() < until, "the writer did not start"
        time.sleep(0.005)


def check_after_kill(place: Place, appended: dict[int, int], least: dict[int, int]) -> None:
    table = place.open()
    found = read_pairs(table)
    assert {pair: found.get(pair) for pair in appended} == appended
    for pair, value in least.items():
        assert found.get(pair, 0) >= value, f"pair {pair} lost the upsert of {value}"
    assert table.verify().problems == []


def check_nothing_stays_behind(place: Place, folder: Path) -> None:
    """What the killed left is collected, unfinished files too."""
    table = place.open()
    before = read_pairs(table)
    table.set_properties({"user.note": "the last commit"})
    table.expire_versions(keep=1)
    time.sleep(1.1)  # unfinished files must be unchanged for a second
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    assert left_over(open_store(place.uri), table) == []
    files = [path for path in (folder / "table").rglob("*") if path.is_file()]
    assert len(files) == len(list(open_store(place.uri).list(""))), "an unfinished file stays"
    assert read_pairs(table) == before
    assert table.verify().problems == []


def test_writers_are_killed(tmp_path: Path) -> None:
    """spec: COM-2, COM-10, UPK-6"""
    kill_writers(tmp_path, 10, 0.15)


@pytest.mark.long
def test_many_writers_are_killed(tmp_path: Path) -> None:
    kill_writers(tmp_path, 200, 0.5)
