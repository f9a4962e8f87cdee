"""The two doors to data files: :func:`open_writer` and :func:`open_reader`. They choose the class, no more."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from lake_engines.files.base import UNKNOWN_ROWS, FileReader, FileWriter, WrittenFile
from lake_engines.files.layout import PARQUET_KIND, VECTOR_KIND, kind_of
from lake_engines.files.parquet_reader import ParquetReader
from lake_engines.files.parquet_writer import ParquetWriter
from lake_engines.files.sized_writer import SizedWriter
from lake_engines.files.vector_pages import LAKE_KEY
from lake_engines.files.vector_reader import VectorReader
from lake_engines.files.vector_writer import VectorWriter, can_be_paged
from lake_engines.files.vortex_reader import VortexReader
from lake_engines.files.vortex_writer import VortexWriter
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.store.base import Store

__all__ = ["describe_file", "open_reader", "open_sized_writer", "open_writer"]


def open_writer(
    store: Store,
    path: str,
    schema: pa.Schema,
    *,
    format: str = "parquet",  # noqa: A002 - the name users and manifests know it by
    page_rows: int | None = None,
    lasting: bool = False,
    plain: bool = False,
) -> FileWriter:
    """A writer for one data file.

    Parameters
    ----------
    schema
        The file's columns. Every field, nested ones included, should carry its permanent id in its metadata
        under ``PARQUET:field_id``.
    format
        ``"vortex"`` or ``"parquet"``. A Parquet file of a single fixed-size list of floats is written as a
        byte-addressable vector file.
    page_rows
        Rows per page of a Parquet file; by default 512, or about 32 MB of vectors.
    lasting
        Whether batches stay as they are until the file is closed, so that they may be kept instead of copied.
    plain
        Let a Parquet file say nothing of Arrow's types (PQT-7); vector files do in any case.

    Raises
    ------
    InvalidInputError
        An unknown format, or columns without distinct names.
    UnsupportedError
        A type that the format cannot hold; ask :func:`vortex_can_hold` and :func:`parquet_can_hold` first.
    """
    if page_rows is not None and page_rows < 1:
        raise InvalidInputError(f"page_rows must be at least 1, not {page_rows}")
    if format == "vortex":
        return VortexWriter(store, path, schema)
    if format != "parquet":
        raise InvalidInputError(f"unknown file format {format!r}", fix='use "vortex" or "parquet"')
    if can_be_paged(schema):
        return VectorWriter(store, path, schema, page_rows=page_rows, lasting=lasting)
    return ParquetWriter(store, path, schema, page_rows=page_rows, plain=plain)


def open_sized_writer(store: Store, path_of: Callable[[str], str], schema: pa.Schema) -> FileWriter:
    """A writer that chooses the format by size; ``path_of`` gives the path for a format.

    Raises
    ------
    UnsupportedError
        A type that Vortex cannot hold; ask :func:`vortex_can_hold` first.
    """
    return SizedWriter(store, path_of, schema)


def open_reader(
    store: Store, file: WrittenFile, schema: pa.Schema | None = None, *, verify_reads: bool = False
) -> FileReader:
    """A reader for one data file; a :class:`VectorReader` where the file is byte-addressable.

    Parameters
    ----------
    file
        As its writer returned it, or with an empty layout for a Parquet file of a foreign writer.
    schema
        The schema as written. None is allowed for Parquet, whose footer tells it.
    verify_reads
        Check every byte that is read against its checksum: slower, but nothing altered passes.

    Raises
    ------
    CorruptionError
        Layout, footer or size are not what they must be.
    NotFoundError
        There is no such file.
    """
    kind = kind_of(file.layout)
    if file.format == "vortex":
        if schema is None:
            raise InvalidInputError(
                f"a Vortex file does not keep Arrow types: {file.path!r} needs its schema"
            )
        return VortexReader(store, file, schema, verify_reads=verify_reads)
    if file.format != "parquet":
        raise CorruptionError(f"data file {file.path!r} has the unknown format {file.format!r}")
    if kind == VECTOR_KIND:
        if schema is None:
            schema = ParquetReader(store, replace(file, layout=b"")).schema
        return VectorReader(store, file, schema, verify_reads=verify_reads)
    if kind not in (None, PARQUET_KIND):
        raise CorruptionError(f"the layout of {file.path!r} is of kind {kind!r}, which is not one of Parquet")
    return ParquetReader(store, file, schema, verify_reads=verify_reads)


def describe_file(store: Store, path: str) -> tuple[WrittenFile, pa.Schema]:
    """What a Parquet file's own footer tells: rows, size, schema, and the layout if it is a vector file."""
    size = store.size(path)
    unknown = WrittenFile(path=path, format="parquet", rows=UNKNOWN_ROWS, size=size, layout=b"")
    reader = ParquetReader(store, unknown)
    layout = b""
    raw = reader.key_values.get(LAKE_KEY)
    if raw is not None:
        try:
            layout = base64.b64decode(json.loads(raw)["layout"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise CorruptionError(
                f"the {LAKE_KEY.decode()} metadata of {path!r} is malformed: {error}"
            ) from error
    return WrittenFile(path=path, format="parquet", rows=reader.rows, size=size, layout=layout), reader.schema
