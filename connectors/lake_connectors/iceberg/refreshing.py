"""Brings a table that was imported from Iceberg to a newer snapshot: reads what is new there, commits once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.table import Table as IcebergTable

from lake_connectors.adapter.opening import opened
from lake_connectors.iceberg.adopting import Adopting
from lake_connectors.iceberg.comparing import Comparison
from lake_connectors.iceberg.file_schemas import FileSchemas
from lake_connectors.iceberg.held import HeldFiles
from lake_connectors.iceberg.locations import Locations
from lake_connectors.iceberg.opening import allowed_places, home_of, metadata_of
from lake_connectors.iceberg.remembered import Remembered
from lake_connectors.iceberg.source import Source
from lake_connectors.iceberg.state import State
from lake_connectors.iceberg.types import arrow_schema, with_vectors
from lake_format.adoption_refresh import Removal, refresh_adopting
from lake_format.errors import ConflictError, InvalidInputError, UnsupportedError
from lake_format.keys import key_field_ids
from lake_format.row_edits import MAX_RUNS
from lake_format.schema import field_id, is_vector
from lake_format.schema_following import followed
from lake_format.snapshot import Snapshot
from lake_format.store.consent import AllowExternal, Consent
from lake_format.store.table_store import TableStore
from lake_format.table import Table

__all__ = ["refresh_table"]


def refresh_table(
    source: IcebergTable | str | os.PathLike[str],
    table: Table | str | os.PathLike[str],
    *,
    snapshot_id: int | None = None,
    vectors: Mapping[str, int] | None = None,
    allow_external: AllowExternal | None = None,
    storage_options: Mapping[str, str] | None = None,
    source_options: Mapping[str, str] | None = None,
) -> Table:
    """Bring a table that :func:`import_table` made to another snapshot of the same Iceberg table, in one commit.

    The difference between the two snapshots is done here too, and only footers of new files are read. Files that stay
    keep their fragments and row ids, so indexes answer for them as before; new files become new fragments; rows of
    files that are gone, and rows deleted in files that stay, are deleted; columns follow by field id. A snapshot that
    the table has already costs no commit. An older one works alike, as after a rollback: what it lacks goes.

    What was done to this table stays: indexes, tags, columns and rows of its own, deleted and updated rows. Three
    things cannot be brought together and are refused, with nothing changed: rows that were deleted or updated here
    and written anew there, as an Iceberg compaction does; files whose rows were compacted or clustered here and
    changed there; columns that both sides changed in two ways. New rows have NULL, or the declared constant, in
    columns that were added here. A column that Iceberg makes required may still be NULL here.

    Parameters
    ----------
    source
        A pyiceberg table, or where a ``….metadata.json`` file of one lies.
    table
        The imported table, or where it is. One that is open moves to the new version.
    snapshot_id
        The snapshot to go to; the current one by default.
    vectors
        New columns of lists that are to be vectors, and their dimensions. Those that are vectors stay so.
    allow_external, storage_options, source_options
        As for :func:`import_table`.

    Returns
    -------
    Table
        The table at its newest version.

    Raises
    ------
    ConflictError
        What was done here and there does not go together, or others committed meanwhile.
    InvalidInputError
        The table was not imported, or from another Iceberg table.
    UnsupportedError
        The table has a key or partitions of its own, or the snapshot holds what cannot be imported.
    ExternalNotAllowedError
        A file lies in none of the places that are allowed.
    CorruptionError
        The Iceberg table's metadata or a footer cannot be read, or they contradict each other.
    """
    home = home_of(source)
    allowed = allowed_places(home, source_options, allow_external)
    target = opened(table, None, storage_options, None if isinstance(table, Table) else allowed).refresh()
    _check_can_follow(target)
    base = target.snapshot
    known = Remembered.of_table(target.properties, target.uri)
    consent = Consent.of(allowed, target.uri, storage_options)
    locations = _locations(base, consent, first=source_options is not None)
    metadata = metadata_of(source, locations)
    known.require_same(metadata, target.uri)
    newest = Source.of(metadata, locations, snapshot_id)
    if not known.is_at(newest):
        _follow(target, base, known, newest, vectors)
    return target


def _follow(
    target: Table,
    base: Snapshot,
    known: Remembered,
    newest: Source,
    vectors: Mapping[str, int] | None,
) -> None:
    before, after = _schemas(base.schema, known, newest, vectors)
    held = HeldFiles(base)
    state = State.of(newest)
    comparison = Comparison(held, _before(held, known, newest))
    comparison.run(state)
    current = followed(before, after, base.schema)
    schemas = FileSchemas(current, newest.field_ids, newest.name_mapping, base.version.next_field_id)
    adoption = Adopting(newest, after, schemas).adoption(comparison.new)
    rows, row_ids = comparison.removed()
    removal = Removal(
        rows=rows,
        row_ids=row_ids.coarsened(MAX_RUNS),
        replaced=comparison.replaced().coarsened(MAX_RUNS),
    )
    now = Remembered.of_source(newest, state)
    told = {"rows_deleted": sum(map(len, rows)), "iceberg_snapshot": str(now.snapshot_id)}
    refresh_adopting(
        target,
        replace(adoption, summary={**adoption.summary, **told}),
        removal,
        base=base,
        schemas=(before, after),
        next_field_id=schemas.next_field_id,
        properties=now.properties(),
    )


def _check_can_follow(table: Table) -> None:
    table._require_writable()
    table._require_alone("a refresh from Iceberg")
    if table.snapshot.version.origin is not None:
        raise UnsupportedError(
            f"branch {table.branch!r} cannot be refreshed from Iceberg", fix="refresh the main line"
        )
    if key_field_ids(table.properties):
        raise UnsupportedError(
            "the table has a key, which rows of Iceberg's are not held to",
            fix="drop it with drop_key() first",
        )
    if table.snapshot.version.partitioning is not None:
        raise UnsupportedError(
            "the table is partitioned here, and files of Iceberg's are not by its columns",
            fix="set_partitioning([]) first",
        )


def _locations(base: Snapshot, consent: Consent, *, first: bool) -> Locations:
    """Where files may be read: as the table was opened, and as this call allows, which comes first if so asked."""
    store = TableStore.around(base.store)
    both = (consent, store.consent) if first else (store.consent, consent)
    prefixes = tuple(prefix for one in both for prefix in one.prefixes)
    places = list(dict.fromkeys(prefix.place for prefix in prefixes))
    return Locations(TableStore(store.home, Consent(prefixes)), places, base.version.roots)


def _schemas(
    mine: pa.Schema, known: Remembered, newest: Source, vectors: Mapping[str, int] | None
) -> tuple[pa.Schema, pa.Schema]:
    """The columns of the snapshot that the table has, and of the one it goes to; vectors are vectors in both."""
    found = {one.schema_id: one for one in newest.metadata.schemas}.get(known.schema_id)
    if found is None and known.schema_id == newest.schema.schema_id:
        found = newest.schema
    if found is None:
        raise ConflictError(
            f"the Iceberg table has no schema {known.schema_id} any more, by which this table's columns were made",
            fix="import the table anew, to another place",
        )
    dimensions = {field_id(one): one.type.list_size for one in mine if is_vector(one.type)}
    before, after = (_as_vectors(one, dimensions) for one in (found, newest.schema))
    early = {field_id(one): one.name for one in before}
    for name in vectors or {}:
        at = after.get_field_index(name)
        if at >= 0 and field_id(after.field(at)) in early:
            raise InvalidInputError(
                f"column {name!r} was there when the table was imported",
                fix="only new columns can be made vectors; import the table anew for this one",
            )
    return before, with_vectors(after, vectors)


def _as_vectors(schema: Schema, dimensions: Mapping[int, int]) -> pa.Schema:
    arrow = arrow_schema(schema)
    named = {one.name: dimensions[field_id(one)] for one in arrow if field_id(one) in dimensions}
    return with_vectors(arrow, named)


def _before(held: HeldFiles, known: Remembered, newest: Source) -> State | None:
    """The snapshot that the table once got, from Iceberg; None where the table still has it as it was.

    The table's own manifests tell it where no row of it was deleted, moved or compacted here: then Iceberg may have
    let the snapshot expire.
    """
    if (len(held.by_place), held.live_rows) == (known.files, known.rows):
        return None
    metadata, locations = newest.metadata, newest.locations
    if known.snapshot_id is not None and metadata.snapshot_by_id(known.snapshot_id) is None:
        raise ConflictError(
            f"rows were deleted, updated or compacted here, and snapshot {known.snapshot_id}, which tells what "
            "Iceberg had deleted before, has expired there",
            fix="import the table anew, to another place, and refresh it while Iceberg keeps its snapshots",
        )
    if known.snapshot_id is None:
        return State({}, {})
    return State.of(Source.of(metadata, locations, known.snapshot_id))
