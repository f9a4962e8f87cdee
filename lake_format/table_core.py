"""What every side of a table shares: its store, its version, its engine, and how it commits and moves on.

The sides themselves (reading, row changes, schema, versions, upkeep) are classes of their own that build on
this one; :class:`lake_format.table.Table` puts them together.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import cached_property
from typing import Any, Self

import pyarrow as pa

from lake_format.clustering import clustering_of
from lake_format.completing import Completing
from lake_format.dataset import TableDataset
from lake_format.engine import Engine, Progress, WriteRequest, load_engine
from lake_format.errors import ConflictError, InvalidInputError, LakeError, NotFoundError, UnsupportedError
from lake_format.inspect import Inspect
from lake_format.lines import MAIN
from lake_format.log import VersionLog, made_anew
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.pending import PendingCommit
from lake_format.snapshot import Snapshot
from lake_format.store.base import Store
from lake_format.store.table_store import TableStore
from lake_format.transaction import Change, Idempotency, Surroundings, commit

__all__ = ["TableCore", "checked_idempotency"]


class TableCore(TableDataset):
    """A table at one version: identity, metadata, refresh and commit."""

    def __init__(
        self,
        store: Store,
        version: Version,
        *,
        engine: Engine | None = None,
        surroundings: Surroundings | None = None,
        pinned: bool = False,
        pending: PendingCommit | None = None,
    ) -> None:
        self._store = TableStore.around(store)
        self._around = surroundings or Surroundings()
        self._log = VersionLog(self._store, self._around.sleep, line=version.line)
        self._log.note(version)
        self._manifests = ManifestSet(self._store, self._around.new_id)
        self._snapshot = Snapshot(self._store, version, self._manifests)
        self._given_engine = engine
        self._pinned = pinned
        self._pending = pending
        self._moving = threading.Lock()

    @classmethod
    def opened(
        cls, store: Store, log: VersionLog, *, engine: Engine | None, surroundings: Surroundings
    ) -> Self:
        """Open at the newest version: while the hint is checked, what a search needs is already fetched."""
        start = log.hint()
        if start is None:
            return cls(store, log.latest(), engine=engine, surroundings=surroundings)
        table = cls(store, start, engine=engine, surroundings=surroundings)
        remote = store.local_path("_lake/latest") is None
        warming = threading.Thread(target=table._warm, daemon=True) if remote and start.indexes else None
        if warming is not None:
            warming.start()
        table._move_to(log.latest_from(start))
        if warming is not None:
            warming.join()
        return table

    # --- what the table is --------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """The table's root, without credentials."""
        return self._store.uri

    @property
    def version(self) -> int:
        """The number of the version this object reads."""
        return self._snapshot.version.version

    @property
    def branch(self) -> str:
        """The name of the branch this object reads: ``main`` unless another was opened."""
        origin = self._snapshot.version.origin
        return MAIN if origin is None else origin.name

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        return self._snapshot.user_schema

    @property
    def snapshot(self) -> Snapshot:
        """The version as engines read it."""
        return self._snapshot

    @property
    def engine(self) -> Engine:
        """The engine that reads and writes this table's rows; loaded when first used."""
        return self._engine

    @property
    def inspect(self) -> Inspect:
        """The table's metadata as Arrow tables: fragments, files, manifests, indexes, versions."""
        return Inspect(self._snapshot, self._log)

    @property
    def properties(self) -> dict[str, str]:
        """The table's properties that were set; others have their defaults."""
        return dict(self._snapshot.version.properties)

    @cached_property
    def _engine(self) -> Engine:
        return self._given_engine or load_engine()

    def versions(self, *, limit: int | None = None, newest_first: bool = False) -> list[dict[str, Any]]:
        """The history: every version that has not expired, the oldest first; a few requests however many.

        Parameters
        ----------
        limit
            Only so many of the newest versions.
        newest_first
            The newest version comes first.

        Returns
        -------
        list of dict
            Each with ``version``, ``committed_at`` (UTC), ``operation``, ``rows``, ``commit_id``, ``writer_id``
            and ``summary``.
        """
        found = self.inspect.versions(limit=limit, newest_first=newest_first)
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows

    def refresh(self) -> Self:
        """Move to the newest version; a table opened at an older version, or in a transaction, stays where it is.

        Raises
        ------
        NotFoundError
            The table was removed, or the branch deleted.
        """
        if not self._pinned and self._pending is None:
            newest = self._log.newest_there(self._snapshot.version)
            if newest.is_end:
                raise NotFoundError(
                    f"the branch {self.branch!r} was deleted", fix="what this object reads is still here"
                )
            self._move_to(newest)
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _commit(
        self,
        *changes: Change,
        base: Version | None = None,
        idempotency: Idempotency | None = None,
        serializable: bool | None = None,
    ) -> Version:
        """Land changes that were prepared against ``base`` (None: the version read now), and move on to them.

        A table used by several threads may have moved on since a change was prepared: then base must be given.
        """
        if self._pending is not None:
            self._pending.add(changes, idempotent=idempotency is not None)
            self._snapshot = self._pending.draft.snapshot
            return self._snapshot.version
        landed = commit(
            self._log,
            self._manifests,
            base or self._snapshot.version,
            changes,
            self._around,
            idempotency,
            serializable=serializable,
        )
        self._move_to(landed)
        return landed

    def _newest_of_main(self) -> Version:
        main = self._log.of_line(0)
        newest = main.latest_from(self._snapshot.version) if main is self._log else main.latest()
        if newest.table_id != self._snapshot.version.table_id:
            raise made_anew()
        return newest

    def _commit_on_main(self, change: Change) -> Version:
        """Commit something about branches, which main lists, wherever this table is.

        Such a change looks at the version it lands on and at no other: where that one is too far ahead to be
        followed from the version read before, the next try starts from it.
        """
        main = self._log.of_line(0)
        base = self._newest_of_main()
        while True:
            try:
                landed = commit(main, self._manifests, base, [change], self._around)
                break
            except ConflictError:
                newest = self._newest_of_main()
                if base.version >= newest.horizon:
                    raise
                base = newest
        if main is self._log and not self._pinned:
            self._move_to(landed)
        return landed

    def _write_request(
        self, data: object, version: Version, progress: Progress | None = None
    ) -> WriteRequest:
        """Rows to be written as new fragments of a version."""
        return WriteRequest(
            data=data,
            schema=version.schema,
            schema_id=version.schema_id,
            properties=version.properties,
            partitioning=version.partitioning,
            clustering=clustering_of(version.properties, version.schema),
            progress=progress,
            new_id=self._around.new_id,
        )

    def _is_done(self, mark: Idempotency | None) -> bool:
        """Whether the job has committed, in the version at hand."""
        return mark is not None and self._snapshot.version.sequences.get(mark.writer, -1) >= mark.sequence

    def _completing(self, version: Version) -> Completing:
        """What completes rows written for a version where a column becomes computed before they land."""
        return Completing(engine=self._engine, base=version, new_id=self._around.new_id)

    def _move_to(self, version: Version) -> None:
        """Read another version from now on; never an older one of the same table, as threads may cross."""
        with self._moving:
            now = self._snapshot.version
            older = version.table_id == now.table_id and version.version < now.version
            if version.commit_id != now.commit_id and not older:
                self._snapshot = Snapshot(self._store, version, self._manifests)

    def _warm(self) -> None:
        with suppress(LakeError):  # whoever needs what is damaged or unreachable will be told then
            self._engine.warm(self._snapshot)

    def _release(self, source: Any) -> None:
        """Let go of rows handed in, or keep them for as long as a transaction may have to look again."""
        if self._pending is None:
            source.close()
        else:
            self._pending.keep(source)

    def _read_as_planned(self, number: int, table_id: str) -> Snapshot:
        """A version of this table, to be read as it was."""
        newest = self._snapshot.version
        if table_id != newest.table_id:
            raise InvalidInputError("this was made for another table", fix="plan and write it anew")
        version = newest if number == newest.version else self._log.read(number)
        return Snapshot(self._store, version, self._manifests)

    def _require_alone(self, what: str) -> None:
        """UnsupportedError in a transaction: for what is a commit, or several, of its own."""
        if self._pending is not None:
            raise UnsupportedError(f"{what} cannot be part of a transaction", fix="do it before or after")

    def _require_writable(self) -> None:
        if self._pending is not None:
            self._pending.require_open()
        if self._pinned:
            raise UnsupportedError(
                f"this table was opened at version {self.version}, which cannot be written to",
                fix="open it without a version to write",
            )

    def __repr__(self) -> str:
        branch = "" if self._log.line == 0 else f"branch={self.branch!r}, "
        return (
            f"Table({self.uri!r}, {branch}version={self.version}, rows={self._snapshot.version.row_count:,})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        raise UnsupportedError(
            "a Table cannot be pickled: it may hold credentials and open files",
            fix="send its uri and version and open it there",
        )


def checked_idempotency(given: tuple[str, int] | None) -> Idempotency | None:
    """The mark of a job that commits once; InvalidInputError for anything but a name and a number."""
    match given:
        case None:
            return None
        case (str() as writer, int() as sequence) if (
            writer and not isinstance(sequence, bool) and sequence >= 0
        ):
            return Idempotency(writer=writer, sequence=sequence)
    raise InvalidInputError(
        f"idempotency must be a writer's name and a number from 0 up, not {given!r}",
        fix='for example ("nightly-load", 17)',
    )
