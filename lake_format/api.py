"""The two front doors: make a table, open a table."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from lake_format.engine import Engine
from lake_format.errors import AlreadyExistsError, InvalidInputError
from lake_format.log import VersionLog
from lake_format.operation_record import OperationRecord
from lake_format.properties import check_properties
from lake_format.schema import assign_field_ids, check_user_schema
from lake_format.store import open_store
from lake_format.store.base import Store
from lake_format.table import Table
from lake_format.transaction import Surroundings, first_version

__all__ = ["create", "open"]


def create(
    uri: str,
    schema: pa.Schema,
    *,
    properties: Mapping[str, object] | None = None,
    storage_options: Mapping[str, str] | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    surroundings: Surroundings | None = None,
) -> Table:
    """Make a new, empty table and open it.

    Parameters
    ----------
    uri
        Where: a local path, ``file://``, ``memory://name``, ``s3://bucket/prefix``, ``gs://``, ``az://``.
    schema
        Columns and types. Vectors are ``pa.list_(pa.float32(), dimension)`` (or float16).
    properties
        Table properties, see :data:`lake_format.properties.PROPERTIES`.
    storage_options
        Endpoint and credentials where the environment does not give them.
    store, engine, surroundings
        Stand-ins for what the table would make itself: a wrapped store, another engine, a test's clock.

    Raises
    ------
    AlreadyExistsError
        A table is there already.
    InvalidInputError
        The URI, schema or a property is wrong.
    """
    around = surroundings or Surroundings()
    root = store or open_store(_checked_uri(uri), storage_options)
    numbered, next_field_id = assign_field_ids(check_user_schema(_as_schema(schema)), 1)
    version = first_version(
        numbered, next_field_id, check_properties(properties), OperationRecord(kind="create"), around
    )
    log = VersionLog(root, around.sleep)
    if not log.claim(version):
        raise AlreadyExistsError(f"there is a table at {root.uri} already", fix="open it with lake.open()")
    log.publish_hint(version)
    return Table(root, version, engine=engine, surroundings=around)


def open(  # noqa: A001 - the name every table library uses
    uri: str,
    version: int | None = None,
    *,
    storage_options: Mapping[str, str] | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    surroundings: Surroundings | None = None,
) -> Table:
    """Open a table at its newest version, or as it was at an older one.

    Parameters
    ----------
    version
        A number from ``table.versions()``; such a table can be read but not written.

    Raises
    ------
    NotFoundError
        There is no table at the URI, or no such version.
    UnsupportedError
        The table was written by a newer release and needs a feature this one lacks.
    CorruptionError
        The table's metadata is damaged.
    """
    around = surroundings or Surroundings()
    root = store or open_store(_checked_uri(uri), storage_options)
    log = VersionLog(root, around.sleep)
    if version is None:
        return Table.opened(root, log, engine=engine, surroundings=around)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InvalidInputError(f"version must be a positive whole number, not {version!r}")
    return Table(root, log.read(version), engine=engine, surroundings=around, pinned=True)


def _checked_uri(uri: object) -> str:
    text = str(uri)
    if not text.strip():
        raise InvalidInputError("the table's URI is empty", fix="give a path such as ./lake/items")
    return text


def _as_schema(schema: object) -> object:
    if not isinstance(schema, pa.Schema) and hasattr(schema, "__arrow_c_schema__"):
        return pa.schema(schema)
    return schema
