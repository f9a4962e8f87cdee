"""What the processes of test_processes.py and test_kill.py do: write pairs of rows, read whole versions, do upkeep.

Rows come in pairs: keys 2k and 2k + 1 with values x and -x, always written in one commit. So whatever version one
reads, both halves of each pair agree. A writer notes each commit, flushed to disk, once it has returned: what is
noted must be there whatever happens afterwards.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

import lake_format as lake
from lake_format.errors import ConflictError, NotFoundError

SCHEMA = pa.schema([pa.field("id", pa.int64(), False), ("x", pa.int64()), ("v", pa.list_(pa.float32(), 2))])
SHARED = 8
"""Pairs that all writers upsert; pairs of one writer alone are numbered from 1,000 times its number."""


@dataclass(frozen=True)
class Place:
    """Where the table is; crosses to other processes."""

    uri: str
    storage_options: dict[str, str] = field(default_factory=dict)

    def open(self) -> lake.Table:
        return lake.open(self.uri, storage_options=self.storage_options)

    def create(self) -> lake.Table:
        return lake.create(
            self.uri,
            SCHEMA,
            key="id",
            properties={"write.fragment-rows": 64},
            storage_options=self.storage_options,
        )


def pairs(*values: tuple[int, int]) -> pa.Table:
    """Rows of pairs, each given as (number, value)."""
    rows = [(2 * number + half, (1 - 2 * half) * value) for number, value in values for half in (0, 1)]
    return pa.table(
        [
            pa.array([key for key, _ in rows], pa.int64()),
            pa.array([value for _, value in rows], pa.int64()),
            pa.array([[float(key), float(value)] for key, value in rows], SCHEMA.field("v").type),
        ],
        SCHEMA,
    )


def read_pairs(table: lake.Table) -> dict[int, int]:
    """Value by pair, of a version that must be whole."""
    found = table.scan(["id", "x"]).read_all()
    keys, values = found.column("id").to_pylist(), found.column("x").to_pylist()
    assert len(set(keys)) == len(keys) == table.count(), "a key is there twice"
    by_key = dict(zip(keys, values, strict=True))
    for key, value in by_key.items():
        assert by_key.get(key ^ 1) == -value, f"version {table.version} has half of a commit: key {key}"
    return {key // 2: value for key, value in by_key.items() if key % 2 == 0}


class Notes:
    """A file of lines that are on disk once written: number, kind, pair, value, version."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def write(self, *parts: object) -> None:
        self._file.write(" ".join(map(str, parts)) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


@dataclass(frozen=True)
class Noted:
    """One acknowledged commit."""

    kind: str
    pair: int
    value: int
    version: int


def read_notes(path: Path) -> list[Noted]:
    if not path.exists():
        return []
    lines = [line.split() for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [Noted(kind, int(pair), int(value), int(version)) for kind, pair, value, version in lines]


def write_pairs(place: Place, writer: int, commits: int, notes: Path) -> None:
    """Append and upsert in turns."""
    table, log, chance = place.open(), Notes(notes), random.Random(writer)
    for number in range(commits):
        value = 1000 * writer + number + 1
        kind = "append" if number % 2 == 0 else "upsert"
        pair = 1000 * (writer + 1) + number if kind == "append" else chance.randrange(SHARED)
        while True:
            try:
                version = commit_pair(table, kind, pair, value)
            except ConflictError:  # it was prepared on a version that expired meanwhile; nothing landed
                continue
            log.write(kind, pair, value, version)
            break


def commit_pair(table: lake.Table, kind: str, pair: int, value: int) -> int:
    if kind == "append":
        return table.append(pairs((pair, value))).version
    return table.upsert(pairs((pair, value))).version


def read_until(place: Place, over: Any, errors: Any) -> None:
    """Check every version one can get hold of, until told to stop."""
    table, looked, chance = place.open(), 0, random.Random(7)
    try:
        while not over.is_set() or looked == 0:
            table.refresh()
            older = max(1, table.version - chance.randrange(5))
            for one in (table, None):
                try:
                    read_pairs(one or table.checkout(older))
                except NotFoundError:  # only a version that has expired may be gone
                    number = table.version if one else older
                    assert number < place.open().snapshot.version.horizon
            looked += 1
    except BaseException as error:
        errors.put(f"reader: {error!r}")
        raise


def keep_up(place: Place, over: Any, errors: Any) -> None:
    """Compact, let versions expire and collect garbage, until told to stop."""
    table = place.open()
    try:
        while not over.is_set():
            upkeep(table)
            time.sleep(0.05)
    except BaseException as error:
        errors.put(f"upkeep: {error!r}")
        raise


def upkeep(table: lake.Table) -> None:
    with suppress(ConflictError):  # overtaken until what it was prepared on had expired; nothing landed
        table.compact()
    table.expire_versions(keep=20)
    table.collect_garbage(dry_run=False, grace=timedelta(0))


def work_until_killed(place: Place, seed: int, notes: Path) -> None:
    """Any operation after any other, noting each; somebody ends this process at some moment."""
    table, log, chance = place.open(), Notes(notes), random.Random(seed)
    number = 0
    while True:
        number += 1
        value, kind = 1000 * seed + number, chance.choice(["append", "append", "upsert", "upsert", "upkeep"])
        if kind == "upkeep":
            what = chance.choice([upkeep, _compact_all, _index, _optimize])
            with suppress(ConflictError):
                what(table)
            log.write(what.__name__, -1, 0, table.version)
        else:
            pair = 1000 * seed + number if kind == "append" else chance.randrange(SHARED)
            log.write(kind, pair, value, commit_pair(table, kind, pair, value))


def _compact_all(table: lake.Table) -> None:
    table.compact(16 + 64 * (table.version % 3), deleted_share=0.01)


def _index(table: lake.Table) -> None:
    table.create_index("v")


def _optimize(table: lake.Table) -> None:
    table.optimize_index()
