"""Clones and backups of a table in a random history: whatever the source does, they stay what they were."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import lake_format as lake
from lake_format.store import Store, forget_memory, open_store

from .state import State

MOST_CLONES = 2


@dataclass(frozen=True)
class Clone:
    """A clone, and the version of its source that it shows."""

    store: Store
    version: int
    state: State


class Copies:
    """All that was copied from one table.

    Parameters
    ----------
    source
        Where the table is.
    """

    def __init__(self, source: Store) -> None:
        self._source = source
        self.clones: list[Clone] = []
        self._backup = open_store(f"memory://machine-backup-{uuid4().hex}")
        self._backed_up: dict[int, State] = {}

    def clone(self, table: lake.Table, state: State) -> None:
        """Share a version with a table of its own, beside those that are there."""
        if len(self.clones) < MOST_CLONES:
            store = open_store(f"memory://machine-clone-{uuid4().hex}")
            table.clone("clone", state.number, store=store)
            self.clones.append(Clone(store, state.number, state))
        self.check_clones()

    def back_up(self, table: lake.Table, state: State, asked: int) -> None:
        """Copy a version into the backup, and bring back one that it holds."""
        table.backup("backup", state.number, store=self._backup)
        self._backed_up[state.number] = state
        number = sorted(self._backed_up)[asked % len(self._backed_up)]
        place = f"memory://machine-restored-{uuid4().hex}"
        restored = lake.restore_backup(
            "backup", "restored", number, backup_store=self._backup, store=open_store(place)
        )
        assert shown(restored) == self._backed_up[number].shown()
        assert restored.verify().problems == []
        forget_memory(place)

    def check_clones(self) -> None:
        """Every clone has the rows it had, and is whole; it can be written to without its source knowing."""
        for clone in self.clones:
            table = lake.open("clone", store=clone.store, allow_external={self._source.uri: self._source})
            assert shown(table) == clone.state.shown()
            problems = table.verify().problems
            assert problems == [], problems

    @property
    def pinned(self) -> set[int]:
        """Versions of the source that clones keep."""
        return {clone.version for clone in self.clones}

    def forget(self) -> None:
        """Remove everything."""
        for store in (self._backup, *(clone.store for clone in self.clones)):
            forget_memory(store.uri)


def shown(table: lake.Table) -> dict[int, dict[str, object]]:
    """All rows by row id."""
    rows = table.scan(["_row_id", *table.schema.names]).read_all().to_pylist()
    return {row.pop("_row_id"): row for row in rows}
