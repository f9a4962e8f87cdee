"""Several operations on their way into one commit: each applied to a draft that the next one sees; all or none land.

The draft is private to whoever runs the transaction. Landing is the work of :mod:`lake_format.transaction`; this
keeps what was prepared, and removes it if it does not land (spec/identity.md, CON-13).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lake_format.changes import AddFragments, AddIndex
from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import InvalidInputError, LakeError, UnsupportedError
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.store.base import Store
from lake_format.transaction import Change, Discards

__all__ = ["PendingCommit"]

_KINDS = frozenset(
    {
        *("append", "delete", "update", "upsert", "merge", "overwrite", "backfill"),
        *("add_column", "drop_column", "rename_column", "alter_column"),
        *("create_index", "drop_index", "set_properties"),
    }
)


class PendingCommit:
    """What a transaction has done so far.

    Attributes
    ----------
    base
        The version it began on.
    draft
        That version with everything done since.
    changes
        What was done, in order.
    """

    def __init__(self, base: Version, manifests: ManifestSet) -> None:
        self.base = base
        self.draft = Draft(base, manifests)
        self.changes: list[Change] = []
        self._sources: list[Any] = []
        self._open = True

    def require_open(self) -> None:
        """InvalidInputError once the transaction has ended."""
        if not self._open:
            raise InvalidInputError("the transaction is over", fix="use the table, or begin another one")

    def add(self, changes: tuple[Change, ...], *, idempotent: bool) -> Version:
        """Do more; returns the draft's version, which is no version of the table."""
        for change in changes:
            self.changes.append(change)
            if idempotent:
                raise InvalidInputError(
                    "an operation of a transaction is not idempotent by itself",
                    fix="pass idempotency= to transaction()",
                )
            if change.record.kind not in _KINDS:
                raise UnsupportedError(
                    f"{change.record.kind} cannot be part of a transaction", fix="do it before or after"
                )
            change.apply(self.draft)
        return self.draft.snapshot.version

    def keep(self, source: Any) -> None:
        """Keep rows handed in until the end: they may have to be looked at again."""
        self._sources.append(source)

    def end(self) -> None:
        """Nothing more can be done."""
        self._open = False
        for source in self._sources:
            source.close()
        self._sources = []

    def discard(self, engine: Engine, store: Store) -> None:
        """Remove what was written; what cannot be removed now is garbage that no version names."""
        for change in self.changes:
            with suppress(LakeError):
                if isinstance(change, Discards):
                    change.discard()
                elif isinstance(change, AddFragments):
                    files = [group for fragment in change.fragments for group in fragment.groups]
                    engine.discard_files(store, files, [shard.path for shard in change.shards.values()])
                elif isinstance(change, AddIndex):
                    engine.discard_files(store, (), [shard.path for shard in change.entry.shards])
