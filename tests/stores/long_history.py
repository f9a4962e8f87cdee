"""A table of a hundred thousand versions at no cost: each object is made, by the codec, when it is asked for.

Whatever is written goes to a store below and hides what would be made: commits on top, damaged objects, none at all.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from samples import bare_version

from lake_format.checkpoint import (
    BLOCK,
    STRIDE,
    Checkpoint,
    Milestone,
    block_start,
    encode_checkpoint,
    remembered,
    stride_start,
)
from lake_format.codec import encode_version
from lake_format.errors import CorruptionError, NotFoundError
from lake_format.model import HistoryEntry, Version
from lake_format.paths import LATEST, checkpoint_number, checkpoint_path, version_number, version_path
from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter, Store

GAP = 60_000_000
"""Microseconds from one version to the next."""

_FIRST = remembered(bare_version(1))


@cache
def entry(number: int) -> HistoryEntry:
    """What is remembered of a version."""
    return replace(_FIRST, version=number, committed_at=time_of(number))


def time_of(number: int) -> int:
    """When a version was committed, in microseconds."""
    return 1_700_000_000_000_000 + number * GAP


def version_of(number: int) -> Version:
    """An empty version with what it remembers."""
    history = tuple(map(entry, range(stride_start(number) + 1, number)))
    parent = number - 1 or None
    return replace(
        bare_version(1), version=number, parent=parent, committed_at=time_of(number), history=history
    )


@cache
def encoded_checkpoint(number: int) -> bytes:
    """The checkpoint of a multiple of 32."""
    start = block_start(number)
    milestones = tuple(
        Milestone(at, time_of(at), len(encoded_checkpoint(at))) for at in range(BLOCK, start + 1, BLOCK)
    )
    entries = tuple(map(entry, range(start + 1, number + 1)))
    table_id = bare_version(1).table_id
    return encode_checkpoint(
        Checkpoint(table_id=table_id, version=number, entries=entries, milestones=milestones)
    )


def pour(store: Store, count: int) -> None:
    """Really write so many versions and their checkpoints."""
    for number in range(1, count + 1):
        store.create(version_path(number), encode_version(version_of(number)))
        if number % STRIDE == 0:
            store.create(checkpoint_path(number), encoded_checkpoint(number))


class LongHistory:
    """``below`` with ``count`` versions of an empty table in it.

    Parameters
    ----------
    without
        Numbers of checkpoints that are missing.
    forgetful
        Numbers of versions that remember nothing.
    """

    def __init__(
        self, below: Store, count: int, *, without: frozenset[int] = frozenset(), forgetful: bool = False
    ) -> None:
        self.below = below
        self.count = count
        self.without = without
        self.forgetful = forgetful
        self.uri = below.uri

    def get(self, path: str) -> bytes:
        try:
            return self.below.get(path)
        except NotFoundError:
            made = self._made(path)
            if made is None:
                raise
            return made

    def _made(self, path: str) -> bytes | None:
        number = version_number(path) or (self.count if path == LATEST else None)
        if number is not None and number <= self.count:
            version = version_of(number)
            return encode_version(replace(version, history=()) if self.forgetful else version)
        number = checkpoint_number(path)
        if number is None or number > self.count or number in self.without:
            return None
        return encoded_checkpoint(number)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> builtins.list[bytes]:
        found = []
        for one in ranges:
            data = self.get(one.path)
            if one.offset + one.length > len(data):
                raise CorruptionError(f"{one.path} has {len(data)} bytes")
            found.append(data[one.offset : one.offset + one.length])
        return found

    def get_suffix(self, path: str, length: int) -> tuple[bytes, int]:
        data = self.get(path)
        return data[max(0, len(data) - length) :], len(data)

    def size(self, path: str) -> int:
        return len(self.get(path))

    def create(self, path: str, data: bytes) -> None:
        assert self._made(path) is None, "no test makes a version that is there"
        self.below.create(path, data)

    def put(self, path: str, data: bytes) -> None:
        self.below.put(path, data)

    def open_writer(self, path: str) -> ObjectWriter:
        return self.below.open_writer(path)

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[ObjectInfo]:
        raise AssertionError("a hundred thousand versions are never listed")

    def delete(self, path: str) -> None:
        self.below.delete(path)

    def local_path(self, path: str) -> str | None:
        return self.below.local_path(path)
