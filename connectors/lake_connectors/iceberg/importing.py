"""Makes a table of an Iceberg table's snapshot: reads its metadata and the footers of its files, commits once."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pyiceberg.table import Table as IcebergTable

from lake_connectors.iceberg.adopting import OWN_FIELDS, Adopting
from lake_connectors.iceberg.file_schemas import FileSchemas
from lake_connectors.iceberg.locations import Locations
from lake_connectors.iceberg.opening import allowed_places, home_of, metadata_of
from lake_connectors.iceberg.remembered import Remembered
from lake_connectors.iceberg.source import Source
from lake_connectors.iceberg.state import State
from lake_connectors.iceberg.types import arrow_schema, with_vectors
from lake_format.adoption import create_adopting
from lake_format.errors import InvalidInputError
from lake_format.store import open_store
from lake_format.store.consent import AllowExternal, Consent
from lake_format.store.places import Place
from lake_format.store.table_store import TableStore
from lake_format.table import Table

__all__ = ["import_table"]


def import_table(
    source: IcebergTable | str | os.PathLike[str],
    uri: str,
    *,
    snapshot_id: int | None = None,
    vectors: Mapping[str, int] | None = None,
    allow_external: AllowExternal | None = None,
    storage_options: Mapping[str, str] | None = None,
    source_options: Mapping[str, str] | None = None,
) -> Table:
    """Make a table whose rows are those of an Iceberg table; its files stay where they are and are only read.

    The table has the Iceberg table's columns and field ids, so files written before its schema changed are read as
    Iceberg reads them. From then on it goes its own way: what is written to either does not show in the other. It is
    opened later by ``lake.open(uri, allow_external=<the Iceberg table's location>)``; the Iceberg table's upkeep must
    keep the files that it refers to.

    Parameters
    ----------
    source
        A pyiceberg table, or where a ``….metadata.json`` file of one lies.
    uri
        Where the new table is to be: an empty place outside the Iceberg table.
    snapshot_id
        The snapshot to import; the current one by default.
    vectors
        Columns of lists of 32-bit floats that are to be vectors, and their dimensions: ``{"embedding": 384}``. They
        can be searched and indexed. A list of another length is found when it is read, and is an error then.
    allow_external
        Further places, besides the Iceberg table's own location, that its files may lie in.
    storage_options, source_options
        Endpoint and credentials of the new table's place and of the Iceberg table's, where the environment does not
        give them.

    Raises
    ------
    UnsupportedError
        The snapshot has equality deletes, data files other than Parquet, or columns that a table cannot hold.
    ExternalNotAllowedError
        A file lies in none of the places that are allowed.
    CorruptionError
        The Iceberg table's metadata or a footer cannot be read, or they contradict each other.
    AlreadyExistsError
        There is a table at ``uri``.
    """
    home = home_of(source)
    _check_apart(uri, home)
    consent = Consent.of(allowed_places(home, source_options, allow_external), uri, storage_options)
    store = TableStore(open_store(uri, storage_options), consent)
    locations = Locations(store, [prefix.place for prefix in consent.prefixes])
    opened = Source.of(metadata_of(source, locations), locations, snapshot_id)
    schema = with_vectors(arrow_schema(opened.schema), vectors)
    state = State.of(opened)
    next_field_id = max(
        OWN_FIELDS, opened.metadata.last_column_id + 1, *(one + 1 for one in opened.field_ids)
    )
    schemas = FileSchemas(schema, opened.field_ids, opened.name_mapping, next_field_id)
    adoption = Adopting(opened, schema, schemas).adoption(state.files())
    known = Remembered.of_source(opened, state)
    properties = {name: value for name, value in known.properties().items() if value is not None}
    return create_adopting(store, schema, schemas.next_field_id, adoption, properties=properties)


def _check_apart(uri: str, home: Place) -> None:
    place = Place.of(uri)
    if home.covers(place) or place.covers(home):
        raise InvalidInputError(
            f"the new table would share a folder with the Iceberg table in {home.uri}",
            fix="give a place beside it: upkeep of either must not meet the other's files",
        )
