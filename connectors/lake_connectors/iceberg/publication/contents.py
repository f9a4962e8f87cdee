"""What a version holds, as a publication sees it: data files with their deleted rows, and nothing that is not one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from pyiceberg import types as iceberg
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, pyarrow_to_schema
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record
from pyroaring import BitMap64

from lake_connectors.iceberg.publication.folder import location_of
from lake_connectors.iceberg.publication.metrics import metrics_of
from lake_engines.files import WrittenFile
from lake_engines.files.parquet_reader import ParquetReader
from lake_format.errors import UnsupportedError
from lake_format.model import Fragment
from lake_format.open_layout import OpenLayout
from lake_format.parallel import run_all
from lake_format.positions import bitmap_of, deleted_positions
from lake_format.schema import field_by_id, field_id, walk_fields
from lake_format.snapshot import Snapshot
from lake_format.store.paths import split_external

__all__ = ["Contents"]

_AT_ONCE = 64
_ANEW = "have its rows written anew, by cluster() or an update of all of them, and publish again"


@dataclass(slots=True)
class Contents:
    """The data files of a version.

    Attributes
    ----------
    snapshot
        The version.
    root
        The table's root as Iceberg names it.
    fragments
        By the path of their one file.
    """

    snapshot: Snapshot
    root: str
    fragments: dict[str, Fragment]

    @classmethod
    def of(cls, snapshot: Snapshot, root: str) -> Contents:
        """Look at every fragment.

        Raises
        ------
        UnsupportedError
            Rows of a fragment are not what its one file says; it is told why.
        """
        layout = OpenLayout(snapshot.version)
        found: dict[str, Fragment] = {}
        wrong: list[str] = []
        for fragment in snapshot.fragments.fragments():
            obstacle = layout.obstacle(fragment)
            if obstacle is not None:
                wrong.append(f"fragment {fragment.fragment_id} {obstacle}")
            else:
                found[fragment.groups[0].path] = fragment
        if wrong:
            raise UnsupportedError(
                f"version {snapshot.version.version} is not one Parquet file a fragment that others can read: "
                f"{'; '.join(wrong[:3])}{f'; and {len(wrong) - 3} more' if len(wrong) > 3 else ''}",
                fix='set_properties({"write.layout": "open"}), compact(), and publish again',
            )
        return cls(snapshot, root, found)

    def location(self, path: str) -> str:
        """Where a file lies, as Iceberg names it: below the table's root, or in the table that it was cloned from."""
        number, inner = split_external(path)
        if number is None:
            return f"{self.root}/{path}"
        return f"{location_of(self.snapshot.version.roots[number])}/{inner}"

    def deletions(self, path: str) -> BitMap64:
        """The deleted positions of a file."""
        return bitmap_of(deleted_positions(self.fragments[path]))

    def check_files(self, paths: Iterable[str]) -> None:
        """Look into the footers of files: each has its columns under the ids that the table knows them by (EVO-7).

        Raises
        ------
        UnsupportedError
            One has not, or holds, perhaps in a column that was dropped, what readers of Iceberg's tables give up on.
        """
        wanted = list(paths)
        for start in range(0, len(wanted), _AT_ONCE):
            run_all(
                [partial(self._check_file, path) for path in wanted[start : start + _AT_ONCE]],
                together=self.snapshot.store.local_path(wanted[start]) is None,
            )

    def _check_file(self, path: str) -> None:
        fragment = self.fragments[path]
        (group,) = fragment.groups
        written = self.snapshot.version.schemas[group.schema_id]
        expected = [field for one in group.field_ids if (field := field_by_id(written, one)) is not None]
        file = WrittenFile(
            path=path, format=group.format, rows=fragment.row_count, size=group.size, layout=b""
        )
        reader = ParquetReader(self.snapshot.store, file)
        ids = [field_id(field) for field in walk_fields(expected)]
        if [_stamped(field) for field in walk_fields(reader.footer_schema)] != ids:
            raise UnsupportedError(f"file {path!r} has its columns under other ids than the table", fix=_ANEW)
        try:
            pyarrow_to_schema(reader.schema, downcast_ns_timestamp_to_us=True)
        except (TypeError, ValueError, UnsupportedPyArrowTypeException) as error:
            raise UnsupportedError(
                f"file {path!r} cannot be read by pyiceberg, whatever its column is used for: {error}",
                fix=_ANEW,
            ) from error

    def data_file(self, path: str, schema: Schema) -> DataFile:
        """A file as Iceberg's manifests describe it."""
        fragment, version = self.fragments[path], self.snapshot.version
        (group,) = fragment.groups
        types = {one.field_id: one.field_type for one in _nested(schema.fields)}
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.location(path),
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=fragment.row_count,
            file_size_in_bytes=group.size,
            **metrics_of(fragment, version.schema, types, version.schemas[group.schema_id]),
        )


def _stamped(field: object) -> int:
    metadata = getattr(field, "metadata", None) or {}
    raw = metadata.get(b"PARQUET:field_id", b"-1")
    return int(raw)


def _nested(fields: Iterable[iceberg.NestedField]) -> Iterable[iceberg.NestedField]:
    for field in fields:
        yield field
        if isinstance(field.field_type, iceberg.StructType):
            yield from _nested(field.field_type.fields)
