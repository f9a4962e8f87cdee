"""The side of a table that keeps indexes: build, drop, and let them catch up with the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Self

from lake_format.changes import AddIndex, DropIndex
from lake_format.draft import Draft
from lake_format.engine import IndexRequest, Progress, Written
from lake_format.errors import InvalidInputError, NotFoundError
from lake_format.index_upkeep import IndexReport, IndexUpkeepRequest, ReplaceShards
from lake_format.model import IndexEntry, IndexShard, Version
from lake_format.operation_record import OperationRecord
from lake_format.properties import flag_property
from lake_format.queries import check_metric, vector_column
from lake_format.snapshot import Snapshot
from lake_format.table_core import TableCore
from lake_format.transaction import REFUSALS, YieldedError

__all__ = ["TableIndexes"]


class TableIndexes(TableCore):
    """Indexes; a search is right whatever state they are in, and fast as far as they cover the rows."""

    def create_index(
        self,
        column: str,
        metric: str = "l2",
        *,
        name: str | None = None,
        progress: Progress | None = None,
        **options: object,
    ) -> Self:
        """Build a vector index over all rows, calibrate its recall, and make it part of the table.

        Parameters
        ----------
        column
            A vector column.
        metric
            ``l2``, ``cosine`` or ``ip``.
        name
            The index's name; an index of that name is replaced. By default ``<column>_<metric>``.
        progress
            Called with ``(stage, done, total)``.
        options
            ``lists``: number of inverted lists; ``seed``: of the sampling; ``refine``: whether to keep an int8
            copy of each vector for faster high-recall searches (default True). An unknown option is an error.

        Raises
        ------
        InvalidInputError
            Not a vector column, an unknown metric or option, no rows to index, or a row with a NaN or infinite
            value (the row id is named).
        """
        self._require_writable()
        snapshot = self._snapshot
        request = self._index_request(column, metric, name, options, progress)
        entry = self._engine.build_index(snapshot, request)
        again = self._pending is not None and self._pending.changes
        rebuild = partial(self._engine.build_index, request=request) if again else None
        self._add_index(entry, snapshot.version, rebuild)
        return self

    def drop_index(self, name: str) -> Self:
        """Remove an index; searches of its column compare with every row from now on.

        Raises
        ------
        NotFoundError
            There is no such index.
        """
        self._require_writable()
        self.refresh()
        entry = self._index(name)
        record = OperationRecord(kind="drop_index", claims=frozenset({f"index:{entry.name}"}))
        self._commit(DropIndex(record=record, summary={"index": entry.name}, name=entry.name))
        return self

    def optimize_index(
        self, name: str | None = None, *, retrain: bool | None = None, progress: Progress | None = None
    ) -> list[IndexReport]:
        """Let indexes catch up: cover rows appended since, take updated ones in anew, shed those that are gone.

        New rows are encoded with the model the index has, into a shard of their own; small shards are put together
        by copying. Where the vectors have drifted away from the model (many more rows than it was trained on, or
        far from its centroids) it is trained anew. Each index is a commit of its own. Upkeep gives way: if somebody
        drops or changes the index meanwhile, the work is given up and reported as ``yielded``.

        Parameters
        ----------
        name
            An index; None is every one.
        retrain
            True trains the model anew in any case, False in none.
        progress
            As for :meth:`create_index`.

        Raises
        ------
        NotFoundError
            There is no such index.
        InvalidInputError
            A row with a NaN or infinite value; its row id is named.
        """
        if retrain is not None and not isinstance(retrain, bool):
            raise InvalidInputError(f"retrain must be True, False or None, not {retrain!r}")
        self._require_writable()
        self._require_alone("optimize_index")
        entries = self.refresh().snapshot.version.indexes
        names = [entry.name for entry in entries] if name is None else [self._index(name).name]
        return [self._optimize(one, retrain, progress) for one in names]

    # --- inside -------------------------------------------------------------------------------------------

    def _add_index(
        self, entry: IndexEntry, base: Version, rebuild: Callable[[Snapshot], IndexEntry] | None = None
    ) -> None:
        """Commit an index that was built over a version; its files are removed where it is refused."""
        record = OperationRecord(
            kind="create_index",
            fields_read=frozenset({entry.field_id}),
            claims=frozenset({f"index:{entry.name}"}),
        )
        summary = {"index": entry.name, "metric": entry.metric}
        change = AddIndex(record=record, summary=summary, entry=entry, rebuild=rebuild)
        try:
            self._commit(change, base=base)
        except REFUSALS:
            self._engine.discard_files(self._store, (), [shard.path for shard in entry.shards])
            raise

    def _index_request(
        self,
        column: str,
        metric: str,
        name: str | None,
        options: Mapping[str, object],
        progress: Progress | None = None,
    ) -> IndexRequest:
        return IndexRequest(
            column=vector_column(self._snapshot.schema, column, ()).name,
            metric=check_metric(metric),
            name=name or f"{column}_{metric}",
            options=options,
            progress=progress,
            new_id=self._around.new_id,
        )

    def _index(self, name: str) -> IndexEntry:
        entries = {entry.name: entry for entry in self._snapshot.version.indexes}
        if name not in entries:
            known = f"indexes are {', '.join(entries)}" if entries else "the table has no index"
            raise NotFoundError(f"there is no index {name!r}", fix=known)
        return entries[name]

    def _shards_over(self, written: Written, version: Version) -> dict[str, IndexShard]:
        """Shards over rows about to be added, by index, where the table wants them indexed at once."""
        if not version.indexes or not flag_property(version.properties, "write.index-on-append"):
            return {}
        draft = Draft(replace(version, manifests=(), row_count=0), self._manifests)
        draft.add_fragments(written.fragments, written.features)
        shards = {}
        for entry in version.indexes:
            request = IndexUpkeepRequest(entry=entry, new_id=self._around.new_id)
            shard = self._engine.extend_index(draft.snapshot, request)
            if shard is not None:
                shards[entry.index_id] = shard
        return shards

    def _optimize(self, name: str, retrain: bool | None, progress: Progress | None) -> IndexReport:
        snapshot = self.refresh().snapshot
        entry = next((one for one in snapshot.version.indexes if one.name == name), None)
        if entry is None:  # dropped meanwhile
            return IndexReport(index=name, yielded=True)
        request = IndexUpkeepRequest(
            entry=entry, retrain=retrain, progress=progress, new_id=self._around.new_id
        )
        rows = self._engine.optimize_index(snapshot, request)
        if rows is None:
            return IndexReport(index=name, shards=len(entry.shards))
        summary = {"index": name, "rows": rows.encoded + rows.copied, "encoded": rows.encoded}
        change = ReplaceShards(entry=entry, rows=rows, summary=summary)
        try:
            landed = self._commit(change, base=snapshot.version)
        except REFUSALS as error:
            self._engine.discard_files(self._store, (), [shard.path for shard in rows.shards])
            if isinstance(error, YieldedError):
                return IndexReport(index=name, shards=len(entry.shards), yielded=True)
            raise
        return IndexReport(
            index=name,
            encoded=rows.encoded,
            copied=rows.copied,
            dropped=rows.dropped,
            shards=next(len(one.shards) for one in landed.indexes if one.index_id == entry.index_id),
            bytes_written=sum(shard.size for shard in rows.shards),
            retrained=rows.retrained,
        )
