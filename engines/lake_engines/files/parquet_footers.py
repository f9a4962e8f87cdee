"""The schemas in the footers of many foreign Parquet files: one read a file, and what many share is parsed once.

A footer begins with its version and schema. One that begins as a known one does, and ends alike from the Arrow schema
on that it may hold, has that one's schema, so that only its number of rows is left to read.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from lake_engines.files import thrift
from lake_engines.files.vector_pages import MAGIC
from lake_format.errors import CorruptionError
from lake_format.store.base import ByteRange, Store
from lake_format.store.table_store import name_of

__all__ = ["FooterSchemas"]

_TAIL_BYTES = 32 << 10
_ARROW = b"ARROW:schema"
_ROWS = b"\x16"
"""The head of the field with the number of rows, right behind the schema: the next field, a 64-bit integer."""


class FooterSchemas:
    """Reads footers; may be used from several threads.

    Parameters
    ----------
    store
        Where the files are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[bytes, bytes], pa.Schema] = {}
        self._lengths: tuple[int, ...] = ()

    def read(self, path: str, size: int, rows: int) -> pa.Schema:
        """The Arrow schema that a footer's own types amount to, with the field ids it gives.

        Files with the same footer schema get the same object.

        Parameters
        ----------
        size, rows
            What is recorded of the file.

        Raises
        ------
        CorruptionError
            The file has another size or number of rows, or is no Parquet file.
        """
        footer = self._footer(path, size)
        arrow = footer.rfind(_ARROW)
        tail = footer[arrow:] if arrow >= 0 else b""
        for length in self._lengths:
            known = self._known.get((footer[:length], tail))
            if known is not None:
                self._check_rows(path, _number(footer, length), rows)
                return known
        return self._parsed(path, footer, tail, rows)

    def _footer(self, path: str, size: int) -> bytes:
        tail, found = self._store.get_suffix(path, _TAIL_BYTES)
        if found != size:
            raise CorruptionError(
                f"Parquet file {self._name(path)} is {found} bytes long, not {size} as recorded"
            )
        if size < 12 or tail[-4:] != MAGIC:
            raise CorruptionError(
                f"{self._name(path)} is not a Parquet file: it does not end in {MAGIC.decode()}"
            )
        length = int.from_bytes(tail[-8:-4], "little")
        if length + 12 > size:
            raise CorruptionError(f"the footer of Parquet file {self._name(path)} is longer than the file")
        if length + 8 <= len(tail):
            return tail[-8 - length : -8]
        return self._store.get_ranges([ByteRange(path, size - 8 - length, length)])[0]

    def _parsed(self, path: str, footer: bytes, tail: bytes, rows: int) -> pa.Schema:
        envelope = MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC
        try:
            metadata = pq.read_metadata(pa.BufferReader(envelope))
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise CorruptionError(f"Parquet file {self._name(path)} cannot be read: {error}") from error
        self._check_rows(path, metadata.num_rows, rows)
        head = _head(footer)
        if head is not None:
            self._known[head, tail] = schema
            if len(head) not in self._lengths:
                self._lengths = (*self._lengths, len(head))
        return schema

    def _check_rows(self, path: str, found: int | None, rows: int) -> None:
        if found != rows:
            raise CorruptionError(
                f"Parquet file {self._name(path)} has {found} rows, not the {rows} recorded"
            )

    def _name(self, path: str) -> str:
        return repr(name_of(self._store, path))


def _head(footer: bytes) -> bytes | None:
    """The bytes up to the number of rows; None where the footer is not laid out as usual."""
    try:
        fields = thrift.split(footer)
    except thrift.ThriftError:
        return None
    head = thrift.encode(fields[:2])[:-1] + _ROWS
    usual = [one.id for one in fields[:3]] == [1, 2, 3] and footer.startswith(head)
    return head if usual else None


def _number(footer: bytes, start: int) -> int | None:
    """The number of rows that stands behind a head; None where there is none."""
    end = start
    while end < len(footer) and footer[end] >= 0x80:
        end += 1
    try:
        found, _ = thrift.decode(_ROWS + footer[start : end + 1] + b"\x00")
    except thrift.ThriftError:
        return None
    return int(found[1])
