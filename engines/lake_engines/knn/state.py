"""What searches of one snapshot share: addresses, coverage, filter results, open indexes — each made once.

A snapshot never changes, so nothing here goes stale; what is kept is bounded in bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from threading import Lock
from typing import TypeVar

from lake_engines.filters import compile_filter
from lake_engines.fragment_reader import ReaderPool
from lake_engines.index import IndexReader, Selection
from lake_engines.knn.build import open_shard
from lake_engines.knn.coverage import Addresses, Coverage, ShardMap, cover
from lake_engines.knn.matches import Matches, find_matches
from lake_engines.knn.vectors import VectorColumn
from lake_format.model import IndexEntry, IndexShard
from lake_format.schema import field_id
from lake_format.snapshot import Snapshot

__all__ = ["IndexPool", "SearchState"]

_FILTER_BYTES = 32 << 20
_OPEN_INDEXES = 64
_Value = TypeVar("_Value")


class IndexPool:
    """Open index readers by path, the last used ones; index files never change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readers: OrderedDict[str, IndexReader] = OrderedDict()

    def get(self, snapshot: Snapshot, shard: IndexShard) -> IndexReader:
        """The reader of a shard."""
        with self._lock:
            reader = self._readers.get(shard.path)
            if reader is None:
                reader = self._readers[shard.path] = open_shard(snapshot, shard)
            self._readers.move_to_end(shard.path)
            while len(self._readers) > _OPEN_INDEXES:
                self._readers.popitem(last=False)
            return reader


class SearchState:
    """Everything a search of one snapshot needs besides its query."""

    def __init__(self, snapshot: Snapshot, pool: ReaderPool, indexes: IndexPool) -> None:
        self.snapshot = snapshot
        self._pool = pool
        self._indexes = indexes
        self._lock = Lock()
        self._kept: OrderedDict[tuple[object, ...], tuple[object, int]] = OrderedDict()
        self._columns: dict[str, VectorColumn] = {}
        self._coverage: dict[tuple[str, str | None], Coverage] = {}

    @cached_property
    def addresses(self) -> Addresses:
        """Addresses of the snapshot's rows."""
        return Addresses(self.snapshot)

    @cached_property
    def is_local(self) -> bool:
        """Whether data files are memory-mapped."""
        fragments = self.snapshot.fragments
        if len(fragments) == 0:
            return True
        return self.snapshot.store.local_path(fragments.fragment(0).groups[0].path) is not None

    def field_id(self, column: str) -> int:
        """The field id of a column."""
        return field_id(self.snapshot.schema.field(column))

    def vectors(self, column: str) -> VectorColumn:
        """The raw vectors of a column."""
        if column not in self._columns:
            self._columns[column] = VectorColumn(self.snapshot, self.addresses, column, self._pool)
        return self._columns[column]

    def index(self, shard: IndexShard) -> IndexReader:
        """The open reader of a shard."""
        return self._indexes.get(self.snapshot, shard)

    def coverage(self, column: str, entry: IndexEntry | None) -> Coverage:
        """What an index of the column covers; rows whose vector is NULL are in neither part."""
        key = (column, entry.index_id if entry else None)
        if key not in self._coverage:
            found = cover(self.addresses, entry)
            self._coverage[key] = found.without(self.vectors(column).null_addresses)
        return self._coverage[key]

    def matches(self, where: object | None) -> Matches | None:
        """The rows a filter lets through; remembered by the filter's text."""
        predicate = compile_filter(self.snapshot, where)
        if predicate is None:
            return None
        key = f"{predicate.rules}: {predicate}"
        return self._keep(
            ("matches", key),
            lambda: find_matches(self.snapshot, self.addresses, predicate, self._pool, key),
            lambda found: found.nbytes,
        )

    def selection(self, shard: IndexShard, shard_map: ShardMap, matches: Matches | None) -> Selection | None:
        """The ordinals of a shard that may be returned; None where all of them may."""
        if matches is None and shard_map.live == shard_map.total:
            return None
        return self._keep(
            ("selection", shard.path, matches.key if matches else None),
            lambda: Selection.from_mask(shard_map.select(None if matches is None else matches.mask())),
            lambda found: int(found.bitmap.nbytes),
        )

    def _keep(
        self, key: tuple[object, ...], make: Callable[[], _Value], size: Callable[[_Value], int]
    ) -> _Value:
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known[0]  # type: ignore[return-value]
        value = make()
        with self._lock:
            self._kept[key] = (value, size(value))
            while len(self._kept) > 2 and sum(held for _, held in self._kept.values()) > _FILTER_BYTES:
                self._kept.popitem(last=False)
        return value
