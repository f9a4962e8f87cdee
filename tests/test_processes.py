"""Processes that write one keyed table at once, while others read it and do upkeep: nothing lost, nothing doubled."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Location
from process_workers import Noted, Place, keep_up, read_notes, read_pairs, read_until, write_pairs

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["process_workers", "lake_engines"])


def write_together(place: Place, folder: Path, writers: int, commits: int) -> None:
    """Run writers, a reader and upkeep; then compare with what the writers noted."""
    place.create()
    over, errors = PROCESSES.Event(), PROCESSES.SimpleQueue()
    notes = [folder / f"writer-{number}" for number in range(writers)]
    working = [
        PROCESSES.Process(target=write_pairs, args=(place, number, commits, path), daemon=True)
        for number, path in enumerate(notes)
    ]
    others = [
        PROCESSES.Process(target=job, args=(place, over, errors), daemon=True)
        for job in (read_until, keep_up)
    ]
    for process in [*working, *others]:
        process.start()
    for process in working:
        process.join()
    over.set()
    for process in others:
        process.join()
    assert errors.empty(), errors.get()
    assert {process.exitcode for process in [*working, *others]} == {0}
    check_all_there(place, [note for path in notes for note in read_notes(path)], writers * commits)


def check_all_there(place: Place, noted: list[Noted], commits: int) -> None:
    """Exactly the noted commits, each once, the last one of a pair on top."""
    assert len(noted) == len({note.version for note in noted}) == commits
    table = place.open()
    last: dict[int, Noted] = {}
    for note in sorted(noted, key=lambda note: note.version):
        last[note.pair] = note
    assert read_pairs(table) == {pair: note.value for pair, note in last.items()}
    assert table.verify().problems == []


def test_processes_on_local_disk(tmp_path: Path) -> None:
    """spec: COM-1, COM-3, COM-9, UPK-4, IDN-14"""
    write_together(Place(str(tmp_path / "table")), tmp_path, 3, 10)


@pytest.mark.long
def test_many_processes_on_local_disk(tmp_path: Path, record_property: Any) -> None:
    began = time.monotonic()
    write_together(Place(str(tmp_path / "table")), tmp_path, 8, 200)
    record_property("seconds", time.monotonic() - began)


@pytest.mark.long
def test_many_processes_on_s3(s3_location: Location, tmp_path: Path) -> None:
    write_together(Place(s3_location.uri, s3_location.storage_options), tmp_path, 8, 200)
