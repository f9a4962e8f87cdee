"""Tables under names: a schema of DataFusion's that hands out a new dataset for every mention of a table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from datafusion.catalog import SchemaProvider, Table

import lake_format as lake
from lake_connectors.adapter.following import Observer
from lake_connectors.datafusion.datasets import LakeDataset, TableDataset, TableFollower, show
from lake_format.catalog import list_tables, table_uri
from lake_format.errors import InvalidInputError

__all__ = ["FolderOfTables", "LakeTables", "Mentions", "following"]


class Mentions:
    """The datasets made while one statement is planned."""

    def __init__(self) -> None:
        self._made: list[LakeDataset] = []
        self.lock = threading.RLock()

    def add(self, dataset: LakeDataset) -> LakeDataset:
        """Note a dataset."""
        self._made.append(dataset)
        return dataset

    def taken(self) -> list[LakeDataset]:
        """What was made since this was asked last."""
        made, self._made = self._made, []
        return made


class LakeTables(SchemaProvider):
    """Tables attached one by one; whatever else is registered in the schema stays beside them."""

    def __init__(self, mentions: Mentions, partitions: int, others: Any | None = None) -> None:
        self._mentions = mentions
        self._partitions = partitions
        self._others = others
        self._own: dict[str, Any] = {}
        self.followers: dict[str, TableFollower] = {}

    def follower(self, name: str) -> TableFollower | None:
        """The table of that name."""
        return self.followers.get(name)

    def table_names(self) -> set[str]:
        """All names."""
        others = set(self._others.table_names()) if self._others is not None else set()
        return {*self.followers, *self._own, *others}

    def table_exist(self, name: str) -> bool:
        """Whether there is a table of that name."""
        return self.follower(name) is not None or name in self.table_names()

    def table(self, name: str) -> Any:
        """The table, at the version of the moment."""
        follower = self.follower(name)
        if follower is not None:
            return Table(self._mentions.add(TableDataset(follower, self._partitions)))
        if name in self._own:
            return self._own[name]
        if self._others is not None and name in self._others.table_names():
            return self._others.table(name)
        return None

    def register_table(self, name: str, table: Any) -> None:
        """Keep a table of DataFusion's own."""
        if name in self.followers:
            raise InvalidInputError(f"the name {name!r} is taken by a lake table", fix="detach it first")
        self._own[name] = table

    def deregister_table(self, name: str, cascade: bool = True) -> None:
        """Forget a table."""
        self._own.pop(name, None)
        self.followers.pop(name, None)


class FolderOfTables(LakeTables):
    """All tables of a folder, opened when first mentioned."""

    def __init__(
        self,
        mentions: Mentions,
        partitions: int,
        folder: str,
        opening: Mapping[str, Any],
        follow: Callable[[str, Any], TableFollower],
    ) -> None:
        super().__init__(mentions, partitions)
        self._folder = folder
        self._opening = opening
        self._follow = follow

    def follower(self, name: str) -> TableFollower | None:
        """The table of that name."""
        known = self.followers.get(name)
        if known is None and name in list_tables(
            self._folder, storage_options=self._opening["storage_options"]
        ):
            opened = lake.open(table_uri(self._folder, name), **self._opening)
            known = self.followers[name] = self._follow(name, opened)
        return known

    def table_names(self) -> set[str]:
        """The tables there are now."""
        return {*list_tables(self._folder, storage_options=self._opening["storage_options"]), *self._own}


def following(name: str, table: Any, max_staleness: float, observer: Observer | None) -> TableFollower:
    """A table as DataFusion's statements see it."""
    return TableFollower(name, table, show, max_staleness=max_staleness, observer=observer)
