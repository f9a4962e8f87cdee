"""What a backup holds: whose it is, which versions are complete, and the checksum of every object (spec/copies.md).

A backup is no table: version objects lie under names of their own, since versions between them may be missing. A
version is in the backup from the moment its object is created, which is last.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from lake_format.codec import decode_version, encode_version
from lake_format.copies.copying import Copied, digest
from lake_format.errors import AlreadyExistsError, CorruptionError, InvalidInputError, NotFoundError
from lake_format.model import Version
from lake_format.paths import DATA, INDEXES, KEYS, MANIFESTS, VERSIONS
from lake_format.store.base import Store

__all__ = ["Inventory", "Recorded"]

_TABLE = "_backup/table.json"
_VERSIONS = "_backup/versions/"
_OBJECTS = "_backup/objects/"
_FORMAT = 0
_VERSION_NAME = re.compile(r"_backup/versions/(\d{20})\.lake")
_OBJECTS_NAME = re.compile(r"_backup/objects/([0-9a-f]{64})\.arrow")
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), False),
        pa.field("size", pa.uint64(), False),
        pa.field("digest", pa.binary(32), False),
    ]
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Size and checksum of an object when it was copied."""

    size: int
    digest: bytes


class Inventory:
    """One backup in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def begin(self, table_id: str) -> None:
        """Make the place a backup of this table, or check that it is one; InvalidInputError where it cannot be."""
        if next(iter(self.store.list(VERSIONS)), None) is not None:
            raise InvalidInputError(
                f"there is a table at {self.store.uri}", fix="give the backup a place of its own"
            )
        try:
            found = self.table_id()
        except NotFoundError:
            text = json.dumps({"format_version": _FORMAT, "table_id": table_id}, sort_keys=True).encode()
            with suppress(AlreadyExistsError):  # somebody else began at this moment
                self.store.create(_TABLE, text)
            found = self.table_id()
        if found != table_id:
            raise InvalidInputError(
                f"{self.store.uri} holds the backup of another table", fix="give this one a place of its own"
            )

    def table_id(self) -> str:
        """Whose backup it is; NotFoundError where there is none."""
        try:
            data = self.store.get(_TABLE)
        except NotFoundError:
            raise NotFoundError(
                f"there is no backup at {self.store.uri}", fix="table.backup() makes one"
            ) from None
        try:
            raw = json.loads(data)
            known, table_id = raw["format_version"] == _FORMAT, raw["table_id"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise CorruptionError(f"{self.store.uri}/{_TABLE} is damaged") from error
        if not known or not isinstance(table_id, str):
            raise CorruptionError(f"{self.store.uri}/{_TABLE} is damaged, or of a newer release")
        return table_id

    def numbers(self) -> list[int]:
        """The versions that are complete, ascending."""
        found = (_VERSION_NAME.fullmatch(info.path) for info in self.store.list(_VERSIONS))
        return sorted(int(match[1]) for match in found if match)

    def version(self, number: int) -> Version | None:
        """A complete version as it was; None where the backup does not hold it."""
        path = _version_path(number)
        try:
            data = self.store.get(path)
        except NotFoundError:
            return None
        version = decode_version(data, f"{self.store.uri}/{path}")
        if version.version != number or version.roots:
            raise CorruptionError(f"{self.store.uri}/{path} is not a version of a backup")
        return version

    def holds(self, version: Version) -> bool:
        """Whether the version is complete here.

        Raises
        ------
        AlreadyExistsError
            Another one is, of the same number: the table was restored to an older state and went another way since.
        """
        found = self.version(version.version)
        if found is not None and found.commit_id != version.commit_id:
            raise AlreadyExistsError(
                f"{self.store.uri} holds another version {version.version} of the table, from before it was restored",
                fix="give the backup a new place",
            )
        return found is not None

    def finish(self, version: Version) -> None:
        """Make a version part of the backup: everything it needs is there."""
        try:
            self.store.create(_version_path(version.version), encode_version(version))
        except AlreadyExistsError:
            self.holds(version)

    @cached_property
    def recorded(self) -> dict[str, Recorded]:
        """Every object that was copied and compared, by path."""
        found: dict[str, Recorded] = {}
        for info in self.store.list(_OBJECTS):
            match = _OBJECTS_NAME.fullmatch(info.path)
            if match is None:
                continue
            data = self.store.get(info.path)
            if digest(data).hex() != match[1]:
                raise CorruptionError(f"{self.store.uri}/{info.path} is truncated or altered")
            table = _decoded(data, f"{self.store.uri}/{info.path}")
            for path, size, checksum in zip(*(column.to_pylist() for column in table.columns), strict=True):
                found[path] = Recorded(size, checksum)
        return found

    def record(self, copied: Sequence[Copied]) -> None:
        """Keep the checksums of objects that are in the backup from now on."""
        if not copied:
            return
        rows = [(one.path, one.size, one.digest) for one in sorted(copied, key=lambda one: one.path)]
        columns = [
            pa.array(list(values), field.type)
            for values, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)
        ]
        sink = io.BytesIO()
        with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(pa.table(columns, _SCHEMA))
        data = sink.getvalue()
        with suppress(AlreadyExistsError):  # the name tells the content
            self.store.create(f"{_OBJECTS}{digest(data).hex()}.arrow", data)
        self.recorded.update({one.path: Recorded(one.size, one.digest) for one in copied})

    def listed(self) -> dict[str, int]:
        """Paths and sizes of the objects that are there, whether or not a version is complete that needs them."""
        return {
            info.path: info.size
            for folder in (DATA, MANIFESTS, INDEXES, KEYS)
            for info in self.store.list(folder)
        }


def _version_path(number: int) -> str:
    return f"{_VERSIONS}{number:020d}.lake"


def _decoded(data: bytes, where: str) -> pa.Table:
    try:
        table = pa.ipc.open_file(pa.py_buffer(data)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptionError(f"{where} cannot be read: {error}") from error
    if table.schema != _SCHEMA or any(column.null_count for column in table.columns):
        raise CorruptionError(f"{where} does not list objects")
    return table
