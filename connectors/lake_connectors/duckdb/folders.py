"""Folders of tables under a name, and tables as of older versions: attached when a statement first mentions them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection

import lake_format as lake
from lake_connectors.adapter.following import Observer
from lake_connectors.duckdb.attaching import Attachments, attach
from lake_connectors.duckdb.mentions import Mention
from lake_format.catalog import table_uri
from lake_format.errors import NotFoundError
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["Folder", "Resolver"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder whose tables can be mentioned as ``name.table``."""

    uri: str
    max_staleness: float = 0.0
    storage_options: Mapping[str, str] | None = None
    allow_external: AllowExternal | None = None
    observer: Observer | None = None

    def open(self, name: str) -> Table:
        """A table of the folder."""
        return lake.open(
            table_uri(self.uri, name),
            storage_options=self.storage_options,
            allow_external=self.allow_external,
        )

    def create(self, name: str, schema: pa.Schema) -> Table:
        """A new table in the folder."""
        return lake.create(table_uri(self.uri, name), schema, storage_options=self.storage_options)


class Resolver:
    """Attaches what statements of one connection mention."""

    def __init__(self, con: DuckDBPyConnection, state: Attachments) -> None:
        self._con = con
        self._state = state
        self.folders: dict[str, Folder] = {}

    def redirect(self, mention: Mention) -> bool:
        """Let a mention name an attached table; whether it had to be changed."""
        wants_older = mention.version is not None or mention.moment is not None
        name = mention.name.lower()
        if name not in self._state.followers:
            if self.folder_of(mention.name) is None:
                return False  # a table or function of DuckDB's own, or a mistake it will name
            self.attached(mention.name)
        if wants_older:
            mention.redirect(self._older(mention))
            return True
        if "." in name and mention.node["type"] == "BASE_TABLE":
            mention.redirect(name)
            return True
        return False

    def folder_of(self, name: str) -> tuple[Folder, str] | None:
        """The folder a qualified name is in, and the table's own name."""
        first, dot, rest = name.partition(".")
        folder = self.folders.get(first.lower()) if dot else None
        return None if folder is None else (folder, rest)

    def attached(self, name: str) -> Table:
        """The table that an SQL name stands for, attached if it was not.

        Raises
        ------
        NotFoundError
            Neither an attached table nor one of an attached folder.
        """
        known = self._state.tables.get(name.lower())
        if known is not None:
            return known
        found = self.folder_of(name)
        if found is None:
            names = ", ".join(one.name for one in self._state.followers.values()) or "none"
            raise NotFoundError(f"no table {name!r} is attached", fix=f"attached: {names}")
        folder, table_name = found
        opened = folder.open(table_name)
        options: dict[str, Any] = {"max_staleness": folder.max_staleness, "observer": folder.observer}
        attach(self._con, opened, name.lower(), **options)
        return opened

    def _older(self, mention: Mention) -> str:
        """The name under which an older version is attached."""
        newest = self.attached(mention.name).refresh()
        older = (
            newest.checkout(mention.version)
            if mention.version is not None
            else newest.checkout(as_of=mention.moment)
        )
        name = f"{mention.name.lower()}@{older.version}"
        if name not in self._state.followers:
            follower = self._state.followers[mention.name.lower()]
            attach(self._con, older, name, observer=follower.observer)
        return name
