"""Makes a table of an Iceberg table's snapshot: reads its metadata and the footers of its files, commits once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import IdentityTransform
from pyroaring import BitMap64

from lake_connectors.iceberg.bounds import statistics_of
from lake_connectors.iceberg.deletes import deleted_rows
from lake_connectors.iceberg.entries import Entry
from lake_connectors.iceberg.file_schemas import FileSchemas
from lake_connectors.iceberg.locations import Locations, place_of
from lake_connectors.iceberg.source import Source, read_metadata
from lake_connectors.iceberg.types import arrow_schema, with_vectors
from lake_engines.files.base import WrittenFile
from lake_engines.files.parquet_reader import ParquetReader
from lake_format.adoption import Adoption, create_adopting
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.model import LISTED_FEATURE, ColumnGroup, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.parallel import run_all
from lake_format.schema import field_id, walk_fields
from lake_format.store import open_store
from lake_format.store.consent import AllowExternal, Consent
from lake_format.store.places import Place
from lake_format.store.table_store import TableStore
from lake_format.table import Table

__all__ = ["import_table"]

SNAPSHOT_PROPERTY = "user.iceberg.snapshot-id"
UUID_PROPERTY = "user.iceberg.table-uuid"


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
    home = _home(source)
    _check_apart(uri, home)
    own = Consent.of({home.uri: source_options}, uri, storage_options)
    consent = Consent((*own.prefixes, *Consent.of(allow_external, uri, storage_options).prefixes))
    store = TableStore(open_store(uri, storage_options), consent)
    locations = Locations(store, [prefix.place for prefix in consent.prefixes])
    metadata = _metadata(source, locations)
    opened = Source.of(metadata, locations, snapshot_id)
    schema = with_vectors(arrow_schema(opened.schema), vectors)
    data, deletes = opened.files()
    schemas = FileSchemas(schema, opened.field_ids, opened.name_mapping, _next_field_id(opened))
    fragments = _fragments(opened, schema, schemas, data, deleted_rows(locations, data, deletes))
    rows = sum(one.row_count for one in fragments)
    adoption = Adoption(
        record=OperationRecord(kind="append", rows_added=rows),
        summary={
            "rows_added": rows - sum(one.deleted_count for one in fragments),
            "fragments_added": len(fragments),
        },
        file_schemas=tuple(schemas.schemas),
        fragments=fragments,
        features=frozenset(
            {*({"evolved-types"} if schemas.widened else ()), *({LISTED_FEATURE} if vectors else ())}
        ),
        roots=locations.used([group.path for one in fragments for group in one.groups]),
    )
    properties = {UUID_PROPERTY: str(metadata.table_uuid)}
    if opened.snapshot is not None:
        properties[SNAPSHOT_PROPERTY] = str(opened.snapshot.snapshot_id)
    return create_adopting(store, schema, schemas.next_field_id, adoption, properties=properties)


def _home(source: object) -> Place:
    """The place that an Iceberg table's files are expected in."""
    if isinstance(source, IcebergTable):
        return place_of(source.metadata.location)
    if not isinstance(source, str | os.PathLike) or not os.fspath(source).endswith(".metadata.json"):
        raise InvalidInputError(
            f"{source!r} is no Iceberg table",
            fix="give a pyiceberg table, or the location of its ….metadata.json file",
        )
    folder = place_of(os.fspath(source)).folder
    return folder.folder if folder.parts[-1:] == ("metadata",) else folder


def _metadata(source: IcebergTable | str | os.PathLike[str], locations: Locations) -> TableMetadata:
    if isinstance(source, IcebergTable):
        return source.metadata
    return read_metadata(locations, os.fspath(source))


def _check_apart(uri: str, home: Place) -> None:
    place = Place.of(uri)
    if home.covers(place) or place.covers(home):
        raise InvalidInputError(
            f"the new table would share a folder with the Iceberg table in {home.uri}",
            fix="give a place beside it: upkeep of either must not meet the other's files",
        )


def _next_field_id(source: Source) -> int:
    return max(source.metadata.last_column_id, *source.field_ids, 0) + 1


def _fragments(
    source: Source,
    schema: pa.Schema,
    schemas: FileSchemas,
    entries: list[Entry],
    deleted: Mapping[str, BitMap64],
) -> tuple[NewFragment, ...]:
    """One fragment for each data file that has rows left, in the order of the manifests."""
    store, files = source.locations.store, [one.file for one in entries]
    paths = [source.locations.path(one.file_path) for one in files]
    remote = any(store.local_path(path) is None for path in paths[:1])
    footers = run_all(
        [partial(_footer, store, path, one) for path, one in zip(paths, files, strict=True)], together=remote
    )
    made = []
    for path, entry, footer in zip(paths, entries, footers, strict=True):
        file = entry.file
        number = schemas.number(footer, file.file_path)
        written = schemas.schemas[number]
        _check_lacking(source, schema, written, entry)
        group = ColumnGroup(
            field_ids=tuple(field_id(field) for field in written),
            schema_id=number,
            path=path,
            format="parquet",
            size=file.file_size_in_bytes,
            layout=b"",
        )
        gone = deleted.get(file.file_path)
        if file.record_count > (0 if gone is None else len(gone)):
            made.append(
                NewFragment(
                    row_count=file.record_count,
                    groups=(group,),
                    statistics=statistics_of(file, schema),
                    deletions=None if gone is None else gone.serialize(),
                    deleted_count=0 if gone is None else len(gone),
                )
            )
    return tuple(made)


def _footer(store: TableStore, path: str, file: DataFile) -> pa.Schema:
    """The schema in a file's footer, once its size and rows are those of the metadata."""
    if file.record_count < 0:
        raise CorruptionError(f"data file {file.file_path} has {file.record_count} rows as recorded")
    size = store.size(path)
    if size != file.file_size_in_bytes:
        raise CorruptionError(
            f"data file {file.file_path} is {size} bytes long, not {file.file_size_in_bytes} as recorded"
        )
    written = WrittenFile(path=path, format="parquet", rows=file.record_count, size=size, layout=b"")
    return ParquetReader(store, written).footer_schema


def _check_lacking(source: Source, schema: pa.Schema, written: pa.Schema, entry: Entry) -> None:
    """Refuse a file whose metadata, not whose bytes, hold the values of a column."""
    held = {field_id(field) for field in walk_fields(written)}
    lacking = [field for field in walk_fields(schema) if field_id(field) not in held]
    columns = {field_id(field) for field in schema}
    parted = {
        one.source_id
        for one in source.spec(entry.spec_id).fields
        if isinstance(one.transform, IdentityTransform)
    }
    for field in lacking:
        origin = source.schema.find_field(field_id(field))
        if field_id(field) in parted:
            why = "its values are only in the partition"
        elif origin.initial_default is not None:
            why = "it has an initial default"
        elif origin.required and origin.field_id in columns:
            why = "it is required"
        else:
            continue
        raise UnsupportedError(
            f"data file {entry.file.file_path} lacks the column {field.name!r}: {why}, which cannot be imported",
            fix="rewrite the file first, for example with rewrite_data_files",
        )
