"""Adopts files that others wrote: one commit with the schemas they have, the places they lie in and their rows.

Used by whoever imports a table of another format. The files stay where they are; what a fragment needs to be read is
known beforehand, so nothing is looked up here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pyarrow as pa

from lake_format.draft import Draft
from lake_format.engine import Engine
from lake_format.errors import AlreadyExistsError, ConflictError, NotWrittenError
from lake_format.log import VersionLog
from lake_format.manifest_set import ManifestSet, Spilled
from lake_format.model import NewFragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.snapshot import Snapshot
from lake_format.store.table_store import TableStore
from lake_format.table import Table
from lake_format.transaction import Surroundings, first_version

__all__ = ["Adoption", "create_adopting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """Add rows of files whose schemas the table may not have yet."""

    record: OperationRecord
    summary: Mapping[str, Any]
    file_schemas: tuple[pa.Schema, ...]
    """The schemas of the files, with the field ids they are matched by."""
    fragments: tuple[NewFragment, ...]
    """The ``schema_id`` of their groups counts ``file_schemas``."""
    features: frozenset[str] = frozenset()
    roots: Mapping[int, str] = field(default_factory=dict)

    def apply(self, draft: Draft) -> OperationRecord:
        """Make the schemas and places known, then add the fragments."""
        known = self.known_to(draft)
        draft.add_fragments(known.fragments, known.features)
        return self.record

    def known_to(self, draft: Draft) -> Self:
        """Make the schemas and places known to a draft; the fragments as they are to be listed there."""
        draft.add_roots(self.roots)
        numbers = [draft.know_schema(schema) for schema in self.file_schemas]
        same = numbers == list(range(len(numbers)))
        fragments = self.fragments if same else tuple(_written_with(one, numbers) for one in self.fragments)
        return replace(self, fragments=fragments, file_schemas=())

    def replan(self, latest: Snapshot) -> Self:
        """What was made of another table is not made anew behind its user's back."""
        raise ConflictError(
            f"version {latest.version.version} changed what the adopted files were checked against",
            fix="nothing was written; import again",
        )


def _written_with(fragment: NewFragment, numbers: Sequence[int]) -> NewFragment:
    """The fragment with its schemas by the ids they have in a version."""
    groups = tuple(replace(group, schema_id=numbers[group.schema_id]) for group in fragment.groups)
    return replace(fragment, groups=groups)


def create_adopting(
    store: TableStore,
    schema: pa.Schema,
    next_field_id: int,
    adoption: Adoption,
    *,
    properties: Mapping[str, str],
    engine: Engine | None = None,
    surroundings: Surroundings | None = None,
) -> Table:
    """Make a table that holds adopted files from its first version on; without them there is no table.

    Parameters
    ----------
    schema, next_field_id
        The columns, with the field ids that the files' schemas have, and the first id nobody has.

    Raises
    ------
    AlreadyExistsError
        There is a table at that place.
    """
    around = surroundings or Surroundings()
    log, manifests = VersionLog(store, around.sleep), ManifestSet(store, around.new_id)
    empty = first_version(schema, next_field_id, properties, OperationRecord(kind="create"), around)
    draft = Draft(empty, manifests)
    record = adoption.apply(draft)
    spilled: Spilled = {}
    version = replace(
        draft.settled(spilled),
        operations=(*empty.operations, record.to_json()),
        summary={**empty.summary, **adoption.summary},
    )
    _claim(log, manifests, version, spilled)
    store.learn(version.roots)
    return Table(store, version, engine=engine, surroundings=around)


def _claim(log: VersionLog, manifests: ManifestSet, version: Version, spilled: Spilled) -> None:
    """Make the version the table's first; what was written for it goes where it is not."""
    try:
        landed = log.claim(version)
    except NotWrittenError:
        manifests.remove_unused(spilled, None)
        raise
    manifests.remove_unused(spilled, version if landed else None)
    if not landed:
        raise AlreadyExistsError(f"there is a table at {log.uri} already", fix="import to an empty place")
    log.publish_hint(version)
