"""The front doors: make a table, open a table, bring one back from a backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa

from lake_format.branches import find_branch
from lake_format.clustering import CLUSTERING_PROPERTY, check_clustering
from lake_format.computed_columns import COMPUTED_FEATURE, check_computable, expression_of, with_expression
from lake_format.copies.restoring import restore
from lake_format.engine import Engine, Progress, load_engine
from lake_format.errors import AlreadyExistsError, InvalidInputError
from lake_format.expressions import sql
from lake_format.history import check_tag, moment_of, tagged
from lake_format.key_index import KEY_INDEX_FEATURE, KeyIndex
from lake_format.keys import KEY_FEATURE, KEY_PROPERTY, check_key_columns, key_field_ids, with_key
from lake_format.lines import MAIN
from lake_format.log import VersionLog
from lake_format.model import Version
from lake_format.operation_record import OperationRecord
from lake_format.partitioning import FEATURE as PARTITIONS
from lake_format.partitioning import PartitionSpec, parse_partitioning
from lake_format.properties import check_properties, with_layout
from lake_format.schema import assign_field_ids, check_user_schema, require_column
from lake_format.store import open_store
from lake_format.store.base import Store
from lake_format.store.consent import AllowExternal, Consent
from lake_format.store.table_store import TableStore
from lake_format.table import Table
from lake_format.timeline import version_at
from lake_format.transaction import Surroundings, first_version

__all__ = ["create", "open", "restore_backup"]


def create(
    uri: str,
    schema: pa.Schema,
    *,
    key: str | Sequence[str] | None = None,
    partition_by: str | Sequence[str] | None = None,
    cluster_by: str | Sequence[str] | None = None,
    layout: str | None = None,
    computed: Mapping[str, str] | None = None,
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
    key
        Columns that identify a row. No two rows ever have the same key, whoever writes; none of it is NULL.
    partition_by
        Columns and transforms of columns by which rows are parted into fragments, such as
        ``["day(ts)", "bucket(16, id)"]``; see :meth:`Table.set_partitioning`.
    cluster_by
        Columns by which rows are put in order when they are written; see :meth:`Table.set_clustering`.
    layout
        ``"open"``: each fragment is one plain Parquet file, vectors included, that any engine reads. Short for the
        property ``write.layout``; the default, ``"split"``, keeps vectors apart and reads them faster.
    computed
        SQL by column of the schema that is computed from others, such as ``{"total": "price * amount"}``; see
        :meth:`Table.add_column`.
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
    if computed:
        numbered = _with_expressions(numbered, computed, engine := engine or load_engine())
    checked = check_properties(with_layout(properties, layout))
    if key is not None:
        numbered, checked[KEY_PROPERTY] = with_key(numbered, check_key_columns(numbered, key))
    fields = parse_partitioning(numbered, partition_by or ())
    if cluster_by is not None:
        checked[CLUSTERING_PROPERTY] = str(check_clustering(numbered, cluster_by))
    version = first_version(numbered, next_field_id, checked, OperationRecord(kind="create"), around)
    if computed:
        version = replace(version, required_features=version.required_features | {COMPUTED_FEATURE})
    if key is not None:
        version = replace(
            version,
            required_features=version.required_features | {KEY_FEATURE, KEY_INDEX_FEATURE},
            key_index=KeyIndex(field_ids=key_field_ids(checked)),
        )
    if fields:
        spec = PartitionSpec(spec_id=0, fields=fields)
        features = version.required_features | {PARTITIONS}
        version = replace(version, partition_specs={0: spec}, partition_spec_id=0, required_features=features)
    log = VersionLog(root, around.sleep)
    if not log.claim(version):
        raise AlreadyExistsError(f"there is a table at {root.uri} already", fix="open it with lake.open()")
    log.publish_hint(version)
    return Table(root, version, engine=engine, surroundings=around)


def open(  # noqa: A001 - the name every table library uses
    uri: str,
    version: int | None = None,
    *,
    as_of: datetime | str | None = None,
    tag: str | None = None,
    branch: str | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: AllowExternal | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    surroundings: Surroundings | None = None,
) -> Table:
    """Open a table, or a branch of it, at its newest version or as it was at an older one.

    Parameters
    ----------
    version
        A number from ``table.versions()``; such a table can be read but not written.
    as_of
        Instead: the version that was current at this moment, a ``datetime`` with a time zone or ISO 8601 text
        with one, such as ``2026-03-01T12:00:00Z``.
    tag
        Instead: the version with this tag.
    branch
        The branch to open; None and ``main`` are the main line. Versions, times and tags are then the branch's own.
    storage_options
        Endpoint and credentials where the environment does not give them.
    allow_external
        Places outside the table's root that it may read files from, as an imported or cloned table does: a prefix
        such as ``"s3://bucket/lake"``, several, or a mapping from prefixes to storage options of their own. The
        table's own options serve a prefix on the same endpoint or account. Only allow what you trust the table
        with: it chooses which files are read there.

    Raises
    ------
    NotFoundError
        There is no table at the URI, no such branch, version or tag, or the version has expired.
    ExternalNotAllowedError
        When files outside the table's root are read that ``allow_external`` does not cover.
    UnsupportedError
        The table was written by a newer release and needs a feature this one lacks.
    CorruptionError
        The table's metadata is damaged.
    """
    around = surroundings or Surroundings()
    address = _checked_uri(uri)
    consent = Consent.of(allow_external, address, storage_options)
    root = TableStore(store or open_store(address, storage_options), consent)
    log = VersionLog(root, around.sleep)
    newest_wanted = version is None and as_of is None and tag is None
    if branch is not None and branch != MAIN:
        log = find_branch(log, branch, exact=not newest_wanted)
    if newest_wanted:
        opened = Table.opened(root, log, engine=engine, surroundings=around)
        if not opened.snapshot.version.is_end:
            return opened
        # Main's hint was behind: the branch was deleted, and perhaps made anew, since.
        log = find_branch(log.of_line(0), str(branch), exact=True)
        return Table.opened(root, log, engine=engine, surroundings=around).refresh()
    older = _older_version(log, version, as_of, tag)
    return Table(root, older, engine=engine, surroundings=around, pinned=True)


def restore_backup(
    backup: str,
    uri: str,
    version: int | None = None,
    *,
    backup_options: Mapping[str, str] | None = None,
    storage_options: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    backup_store: Store | None = None,
    store: Store | None = None,
    engine: Engine | None = None,
    surroundings: Surroundings | None = None,
) -> Table:
    """Make a live table from a backup (``table.backup()``) and open it.

    The table has the version's number, rows, row ids, indexes, tags and properties; versions that a tag names are
    there too, others before it have expired. Every object is compared with the checksum it had when it was copied
    into the backup. Until the last of them is there, there is no table; an interrupted call is simply repeated.

    Parameters
    ----------
    backup
        Where the backup is.
    uri
        Where the table is to be: an empty place.
    version
        A version the backup holds; None is the newest of them.
    backup_options, storage_options
        Endpoint and credentials of the two places, where the environment does not give them.
    progress
        Called with ``("restore", bytes done, bytes in all)``.
    backup_store, store, engine, surroundings
        Stand-ins, as in :func:`create`.

    Raises
    ------
    NotFoundError
        There is no backup, or it does not hold that version; those it holds are named.
    AlreadyExistsError
        There is a table at ``uri``.
    CorruptionError
        An object of the backup is damaged or missing; it is named, and no table was made.
    """
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
        raise InvalidInputError(f"version must be a positive whole number, not {version!r}")
    source = backup_store or open_store(_checked_uri(backup), backup_options)
    target = store or open_store(_checked_uri(uri), storage_options)
    restored = restore(source, target, version, progress)
    return Table(target, restored, engine=engine, surroundings=surroundings)


def _older_version(
    log: VersionLog, version: int | None, as_of: datetime | str | None, tag: str | None
) -> Version:
    if sum(given is not None for given in (version, as_of, tag)) > 1:
        raise InvalidInputError("give one of version, as_of and tag, not several")
    if as_of is not None:
        moment = moment_of(as_of)
        return version_at(log, log.latest(), moment)
    if tag is not None:
        return log.read(tagged(log.latest(), check_tag(tag)))
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InvalidInputError(f"version must be a positive whole number, not {version!r}")
    return log.read(version)


def _with_expressions(schema: pa.Schema, computed: Mapping[str, str], engine: Engine) -> pa.Schema:
    """The schema with the expressions of columns that are to be computed."""
    if not isinstance(computed, Mapping):
        raise InvalidInputError(
            f"computed columns are given as SQL by column, not as {computed!r}",
            fix='computed={"total": "price * amount"}',
        )
    for name, text in computed.items():
        column = require_column(schema, name)
        kept = with_expression(column, engine.declare_expression(schema, column, str(sql(text))))
        schema = schema.set(schema.get_field_index(name), kept)
    for column in schema:  # one that was computed only later may be an input of one before
        if (expression := expression_of(column)) is not None:
            check_computable(schema, column, expression.inputs)
    return schema


def _checked_uri(uri: object) -> str:
    text = str(uri)
    if not text.strip():
        raise InvalidInputError("the table's URI is empty", fix="give a path such as ./lake/items")
    return text


def _as_schema(schema: object) -> object:
    if not isinstance(schema, pa.Schema) and hasattr(schema, "__arrow_c_schema__"):
        return pa.schema(schema)
    return schema
