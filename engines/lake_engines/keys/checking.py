"""Checks keys and the key index of a snapshot against the data: no key twice, no row that the index would miss.

Memory: a window of hashes; those of the data lie sorted in a temporary file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lake_engines.fragment_reader import ReaderPool
from lake_engines.keys.bloom import may_contain
from lake_engines.keys.finding import unanswered_rows
from lake_engines.keys.merging import SortedHashes, Window, all_rows, hashed_rows, refuse_doubles, windows_of
from lake_engines.keys.run_reader import RunReader
from lake_format.errors import CorruptionError
from lake_format.key_index import KeyIndex
from lake_format.keys import key_columns, key_field_ids
from lake_format.paths import version_path
from lake_format.row_ids import U64
from lake_format.snapshot import Snapshot
from lake_format.verification import WRONG, Problem

__all__ = ["check_keys"]

_PAGES_AT_ONCE = 64
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def check_keys(snapshot: Snapshot) -> Iterator[Problem]:
    """What is wrong with the keys of a table, or with its key index; nothing for a table without key."""
    names = key_columns(snapshot.version)
    if not names:
        return
    pool = ReaderPool()  # opened anew, past every cache
    where = version_path(snapshot.version.version)
    index = snapshot.version.key_index
    readers: list[RunReader] = []
    sound = True
    for run in index.runs if index is not None else ():
        try:
            reader = pool.key_runs.readers(snapshot.store, [run], 1 << 62)[0]
            _check_run(snapshot, reader)
            readers.append(reader)
        except WRONG as error:
            sound = False
            yield Problem(run.run.path or where, error.what, derived=True)
    try:
        with SortedHashes() as found:
            identities = key_field_ids(snapshot.version.properties)
            for hashes, row_ids in hashed_rows(snapshot, all_rows(snapshot), identities, pool):
                found.add(hashes, row_ids)
            for window in windows_of(found.sources()):
                refuse_doubles(snapshot, names, window, pool)
                if index is not None and sound:
                    yield from _missing(snapshot, index, readers, window)
    except WRONG as error:
        yield Problem(where, error.what)


def _check_run(snapshot: Snapshot, reader: RunReader) -> None:
    """Every page: its checksum, its order, its ordinals, and that the filter lets its hashes through."""
    if reader.head is None:
        return
    where = reader.run.run.path
    if snapshot.store.size(where) != reader.run.run.size:
        raise CorruptionError("the file is longer or shorter than recorded")
    last = 0
    for start in range(0, reader.head.pages, _PAGES_AT_ONCE):
        stop = min(start + _PAGES_AT_ONCE, reader.head.pages)
        hashes, ordinals = reader.entries(snapshot.store, start, stop)
        if (hashes[1:] < hashes[:-1]).any() or int(hashes[0]) < last:
            raise CorruptionError(f"hashes of pages {start} to {stop - 1} do not ascend")
        if (hashes[:: reader.head.per_page] != reader.head.fences[start:stop]).any():
            raise CorruptionError(
                f"pages {start} to {stop - 1} do not begin with the hashes that the head says"
            )
        reader.run.row_ids(ordinals)
        if not may_contain(reader.filter_words(snapshot.store), hashes).all():
            raise CorruptionError("the filter does not let all of its hashes through")
        last = int(hashes[-1])


def _missing(
    snapshot: Snapshot, index: KeyIndex, readers: Sequence[RunReader], window: Window
) -> Iterator[Problem]:
    """Rows that the index answers for and has no entry of."""
    answered = ~np.isin(window.row_ids, _unanswered_ids(snapshot, index))
    known = [_pairs(*reader.between(snapshot.store, window.low, window.high)) for reader in readers]
    entries = np.concatenate(known) if known else np.empty(0, np.uint64)
    lost = answered & ~np.isin(_pairs(window.hashes, window.row_ids), entries)
    if lost.any():
        row_id = int(window.row_ids[int(np.flatnonzero(lost)[0])])
        yield Problem(
            version_path(snapshot.version.version),
            f"the key index would not find {int(lost.sum())} rows, the one with row id {row_id} among them",
            derived=True,
        )


def _unanswered_ids(snapshot: Snapshot, index: KeyIndex) -> U64:
    rows = unanswered_rows(snapshot, index)
    ids = [
        snapshot.fragments.fragment(owner).row_ids()[positions]
        for owner, positions in rows.by_owner().items()
    ]
    return np.concatenate(ids) if ids else np.empty(0, np.uint64)


def _pairs(hashes: U64, row_ids: U64) -> U64:
    """One number for each pair of hash and row id; two that are equal stand for the same pair, as good as always."""
    return hashes ^ (row_ids * _SPREAD)
