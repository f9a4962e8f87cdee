"""Data files of an Iceberg snapshot as fragments of a table that only refers to them.

Reads the footers of the files it is given, which tell the field ids and types they were written with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from pyiceberg.transforms import IdentityTransform

from lake_connectors.iceberg.bounds import Bounds
from lake_connectors.iceberg.entries import Entry
from lake_connectors.iceberg.file_schemas import FileSchemas
from lake_connectors.iceberg.source import Source
from lake_connectors.iceberg.state import DataFiles
from lake_engines.files.parquet_footers import FooterSchemas
from lake_format.adoption import Adoption
from lake_format.column_defaults import DEFAULTS_FEATURE, default_of
from lake_format.errors import UnsupportedError
from lake_format.model import LISTED_FEATURE, ColumnGroup, NewFragment
from lake_format.operation_record import OperationRecord
from lake_format.parallel import run_all
from lake_format.schema import field_id, is_vector, walk_fields

__all__ = ["OWN_FIELDS", "Adopting"]

OWN_FIELDS = 1 << 30
"""Field ids from here on are the table's own: what Iceberg adds later has smaller ones."""


@dataclass(frozen=True, slots=True)
class Adopting:
    """Makes fragments of data files.

    Attributes
    ----------
    source
        The snapshot they are of.
    schema
        Its columns as the table has them: vectors where those are lists.
    schemas
        Takes the schemas of the files.
    """

    source: Source
    schema: pa.Schema
    schemas: FileSchemas

    def adoption(self, files: DataFiles) -> Adoption:
        """What is to be committed for these files: a fragment for each, in this order."""
        fragments = self._fragments(files)
        vectors = any(is_vector(column.type) for column in self.schema)
        features = {
            "evolved-types": self.schemas.widened,
            LISTED_FEATURE: vectors,
            DEFAULTS_FEATURE: any(default_of(column) is not None for column in self.schema),
        }
        paths = [group.path for one in fragments for group in one.groups]
        return Adoption(
            record=OperationRecord(kind="append", rows_added=sum(one.row_count for one in fragments)),
            summary={
                "rows_added": sum(one.row_count - one.deleted_count for one in fragments),
                "fragments_added": len(fragments),
            },
            file_schemas=tuple(self.schemas.schemas),
            fragments=fragments,
            features=frozenset(name for name, needed in features.items() if needed),
            roots=self.source.locations.used(paths),
        )

    def _fragments(self, files: DataFiles) -> tuple[NewFragment, ...]:
        locations, entries = self.source.locations, [entry for entry, _ in files]
        paths = [locations.path(one.file.file_path) for one in entries]
        footers = FooterSchemas(locations.store)
        reads = [
            partial(footers.read, path, one.file.file_size_in_bytes, one.file.record_count)
            for path, one in zip(paths, entries, strict=True)
        ]
        remote = any(locations.store.local_path(path) is None for path in paths[:1])
        numbers = [
            self.schemas.number(footer, one.file.file_path)
            for one, footer in zip(entries, run_all(reads, together=remote), strict=True)
        ]
        field_ids = [tuple(field_id(field) for field in written) for written in self.schemas.schemas]
        bounds, looked = Bounds(self.schema), set[tuple[int, int]]()
        made = []
        for path, (entry, gone), number in zip(paths, files, numbers, strict=True):
            if (number, entry.spec_id) not in looked:
                self._check_lacking(self.schemas.schemas[number], entry)
                looked.add((number, entry.spec_id))
            group = ColumnGroup(
                field_ids=field_ids[number],
                schema_id=number,
                path=path,
                format="parquet",
                size=entry.file.file_size_in_bytes,
                layout=b"",
            )
            made.append(
                NewFragment(
                    row_count=entry.file.record_count,
                    groups=(group,),
                    statistics=bounds.of(entry.file),
                    deletions=None if gone is None else gone.serialize(),
                    deleted_count=0 if gone is None else len(gone),
                )
            )
        return tuple(made)

    def _check_lacking(self, written: pa.Schema, entry: Entry) -> None:
        """Refuse a file whose metadata, not whose bytes, hold the values of a column."""
        source = self.source
        held = {field_id(field) for field in walk_fields(written)}
        lacking = [field for field in walk_fields(self.schema) if field_id(field) not in held]
        columns = {field_id(field) for field in self.schema}
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
                if field_id(field) in columns and default_of(field) is not None:
                    continue
                why = f"it has the initial default {origin.initial_default!r}, which cannot be declared"
            elif origin.required and field_id(field) in columns:
                why = "it is required"
            else:
                continue
            raise UnsupportedError(
                f"data file {entry.file.file_path} lacks the column {field.name!r}: {why}, "
                "which cannot be imported",
                fix="rewrite the file first, for example with rewrite_data_files",
            )
