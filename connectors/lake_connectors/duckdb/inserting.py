"""``INSERT INTO`` and ``CREATE TABLE … AS`` whose target is a table of a lake: any query of DuckDB's, one commit.

The query runs in DuckDB and its rows are streamed into the table. Columns go by position, as in SQL, or by name after
``BY NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from lake_connectors.duckdb.folders import Resolver
from lake_format.errors import AlreadyExistsError, InvalidInputError, UnsupportedError
from lake_format.schema import is_computed
from lake_format.table import Table

__all__ = ["Insertion", "insertion", "write"]

_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_TARGET = rf"(?P<name>{_NAME}(?:\s*\.\s*{_NAME})*)"
_INSERT = re.compile(
    rf"""\s*INSERT\s+(?P<odd>OR\s+\w+\s+)?INTO\s+{_TARGET}(?P<by_name>\s+BY\s+NAME)?(?P<by_position>\s+BY\s+POSITION)?
    \s*(?:\((?P<columns>\s*{_NAME}(?:\s*,\s*{_NAME})*\s*)\))?
    \s*(?P<query>(?:SELECT|WITH|FROM|VALUES|TABLE)\b.*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_CREATE = re.compile(
    rf"""\s*CREATE\s+(?P<odd>OR\s+REPLACE\s+|TEMP\s+|TEMPORARY\s+)?TABLE\s+(?P<lenient>IF\s+NOT\s+EXISTS\s+)?{_TARGET}
    \s+AS\s+(?P<query>(?:SELECT|WITH|FROM|VALUES|TABLE)\b.*)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_UNWANTED = re.compile(r"\b(?:RETURNING|ON\s+CONFLICT)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """A statement that writes.

    Attributes
    ----------
    name
        The target, as written, without quotes.
    creates
        Whether the target is to be made; ``lenient``: unless it exists.
    columns
        The target's columns by position; None is all.
    """

    name: str
    query: str
    creates: bool
    lenient: bool = False
    by_name: bool = False
    columns: tuple[str, ...] | None = None
    odd: str = ""

    def require_plain(self) -> None:
        """Refuse what a table of a lake does not do."""
        unwanted = _UNWANTED.search(self.query)
        if self.odd or unwanted:
            what = self.odd.strip() or (unwanted.group() if unwanted else "")
            raise UnsupportedError(
                f"{what.upper()} is not supported for tables of a lake",
                fix="use upsert() or overwrite() of the table in Python",
            )


def insertion(text: str) -> Insertion | None:
    """What a statement writes, if it is an INSERT or CREATE TABLE AS."""
    found = _INSERT.fullmatch(text.rstrip().rstrip(";"))
    if found is not None:
        columns = found["columns"]
        return Insertion(
            name=_plain(found["name"]),
            query=found["query"],
            creates=False,
            by_name=found["by_name"] is not None,
            columns=None if columns is None else tuple(_plain(one) for one in _split(columns)),
            odd=found["odd"] or "",
        )
    found = _CREATE.fullmatch(text.rstrip().rstrip(";"))
    if found is not None:
        return Insertion(
            name=_plain(found["name"]),
            query=found["query"],
            creates=True,
            lenient=found["lenient"] is not None,
            odd=found["odd"] or "",
        )
    return None


def write(what: Insertion, reader: pa.RecordBatchReader, resolver: Resolver) -> int:
    """Write a query's rows to the target in one commit; returns how many.

    Raises
    ------
    InvalidInputError
        More or fewer columns than the target has, or one it has not; a value that does not fit its column.
    AlreadyExistsError
        The table to make is there already.
    """
    found = resolver.folder_of(what.name)
    counted = _Counted()
    if not what.creates:
        table = resolver.attached(what.name).refresh()
        table.append(counted(_renamed(reader, table, what)))
        return counted.rows
    assert found is not None, "only tables of folders are made"
    folder, name = found
    try:
        folder.create(name, reader.schema).append(counted(reader))
    except AlreadyExistsError:
        if not what.lenient:
            raise
    return counted.rows


class _Counted:
    """Counts the rows of a stream as they pass."""

    rows = 0

    def __call__(self, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The same stream."""

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in reader:
                self.rows += batch.num_rows
                yield batch

        return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _renamed(reader: pa.RecordBatchReader, table: Table, what: Insertion) -> pa.RecordBatchReader:
    """A query's rows under the names of the table's columns."""
    if what.by_name:
        return reader
    names = what.columns or _by_position(table, len(reader.schema))
    if len(names) != len(reader.schema):
        raise InvalidInputError(
            f"{what.name} wants {len(names)} columns ({', '.join(names)}), and the query has {len(reader.schema)}",
            fix="list the columns after the table's name, or use INSERT INTO … BY NAME",
        )
    unknown = next((name for name in names if name not in table.schema.names), None)
    if unknown is not None:
        raise InvalidInputError(
            f"{what.name} has no column {unknown!r}", fix=f"columns are {', '.join(table.schema.names)}"
        )
    schema = pa.schema([field.with_name(name) for field, name in zip(reader.schema, names, strict=True)])
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _by_position(table: Table, count: int) -> tuple[str, ...]:
    """The columns that so many of a query go to: all, or, as in DuckDB's own tables, all but computed ones."""
    given = tuple(field.name for field in table.snapshot.schema if not is_computed(field))
    return tuple(table.schema.names) if count == len(table.schema) else given


def _split(columns: str) -> list[str]:
    return [one.strip() for one in re.findall(_NAME, columns)]


def _plain(name: str) -> str:
    """A name without its quotes and the space around its dots."""
    parts = re.findall(_NAME, name)
    return ".".join(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts)
