"""Reading a table in pieces: what a driver plans, and what a task reads. Neither keeps state: all is in the plan.

A scan is pinned to one version when it is planned; tasks open that version, whatever is committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import lake_format as lake
from lake_connectors.adapter.nearest import Conditions
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_engines.predicate.tree import Expression
from lake_format.engine import ScanRequest
from lake_format.errors import InvalidInputError, LakeError
from lake_format.schema import ROW_ID, ROW_ID_FIELD
from lake_format.table import Table

__all__ = [
    "Place",
    "batches_of",
    "grouped",
    "is_exact",
    "place_of",
    "place_to_write",
    "scanned",
    "shown_schema",
]

_BATCH_ROWS = 16_384
_OPTIONS = ("path", "version", "tag", "asof", "columns", "rowids", "branch", "allowexternal")
_PREFIX = "storage."


@dataclass(frozen=True)
class Place:
    """Which version of which table, in words that travel between processes.

    Attributes
    ----------
    version
        A number; None is the newest.
    columns
        Names wanted; None is all.
    row_ids
        Whether ``_row_id`` is shown as the last column.
    allow_external
        Places outside the table's root that it may read files from.
    """

    uri: str
    version: int | None = None
    columns: tuple[str, ...] | None = None
    row_ids: bool = False
    branch: str | None = None
    storage_options: Mapping[str, str] = field(default_factory=dict)
    allow_external: tuple[str, ...] = ()

    def open(self) -> Table:
        """The table."""
        return lake.open(
            self.uri,
            self.version,
            branch=self.branch,
            storage_options=dict(self.storage_options) or None,
            allow_external=self.allow_external or None,
        )


def place_of(options: Mapping[str, str], more: Sequence[str] = ()) -> Place:
    """What the options of a data source say; those of the store begin with ``storage.``.

    Raises
    ------
    InvalidInputError
        No path, or an option there is not.
    """
    given = {name.lower(): value for name, value in options.items()}
    storage = {name[len(_PREFIX) :]: value for name, value in given.items() if name.startswith(_PREFIX)}
    unknown = sorted(set(given) - set(_OPTIONS) - set(more) - {_PREFIX + name for name in storage})
    if unknown:
        raise InvalidInputError(
            f"unknown option {unknown[0]!r}", fix=f"options are {', '.join((*_OPTIONS, *more))}, storage.…"
        )
    if not given.get("path"):
        raise InvalidInputError("no path was given", fix='.load("s3://bucket/table")')
    place = Place(
        uri=given["path"],
        columns=_names(given.get("columns")),
        row_ids=given.get("rowids", "false").lower() == "true",
        branch=given.get("branch"),
        storage_options=storage,
        allow_external=_names(given.get("allowexternal")) or (),
    )
    return Place(**{**vars(place), "version": _version(place, given)})


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def place_to_write(options: Mapping[str, str], more: Sequence[str] = ()) -> Place:
    """The same for a writer, which has no use for what chooses versions or columns.

    Raises
    ------
    InvalidInputError
        An option that only reading knows; and as :func:`place_of`.
    """
    known = ("path", "branch", "allowexternal", *more)
    unfit = sorted(n for n in options if n.lower() not in known and not n.lower().startswith(_PREFIX))
    if unfit:
        raise InvalidInputError(
            f"writing knows no option {unfit[0]!r}", fix=f"options are {', '.join(known)}, storage.…"
        )
    return place_of(options, more)


def _version(place: Place, given: Mapping[str, str]) -> int | None:
    chosen = [name for name in ("version", "tag", "asof") if name in given]
    if len(chosen) > 1:
        raise InvalidInputError(f"give one of {' and '.join(chosen)}, not both")
    if "version" in given:
        if not given["version"].isdigit():
            raise InvalidInputError(f"version must be a positive whole number, not {given['version']!r}")
        return int(given["version"])
    if "tag" in given:
        return place.open().checkout(given["tag"]).version
    return place.open().checkout(as_of=given["asof"]).version if "asof" in given else None


def shown_schema(table: Table, place: Place) -> pa.Schema:
    """The columns wanted, in types Spark takes."""
    schema = table.schema
    if place.columns is not None:
        missing = next((name for name in place.columns if name not in schema.names), None)
        if missing is not None:
            raise InvalidInputError(
                f"the table has no column {missing!r}", fix=f"columns are {', '.join(schema.names)}"
            )
        schema = pa.schema([schema.field(name) for name in place.columns])
    return TYPES.schema(schema.append(ROW_ID_FIELD) if place.row_ids else schema)


def is_exact(table: Table, term: Expression) -> bool:
    """Whether the table can answer a predicate exactly."""
    try:
        Conditions((term,), "duckdb").bound(table.snapshot.schema)
    except LakeError:
        return False
    return True


def grouped(table: Table, terms: tuple[Expression, ...], parts: int) -> list[frozenset[int]]:
    """The fragments that may hold matching rows, in at most so many groups of about as many rows."""
    where = Conditions(terms, "duckdb").bound(table.snapshot.schema)
    groups: list[tuple[int, list[int]]] = [(0, []) for _ in range(max(parts, 1))]
    for fragment_id, rows in table.engine.scan_parts(table.snapshot, where):
        least = min(range(len(groups)), key=lambda index: groups[index][0])
        groups[least] = (groups[least][0] + rows, [*groups[least][1], fragment_id])
    return [frozenset(ids) for _, ids in groups if ids]


def batches_of(
    place: Place, fragments: frozenset[int], terms: tuple[Expression, ...], target: Any
) -> Iterator[pa.RecordBatch]:
    """The rows of some fragments, as Spark wants them."""
    for batch in scanned(place, fragments, terms, tuple(target.names)):
        yield as_spark_batch(batch, target)


def scanned(
    place: Place, fragments: frozenset[int], terms: tuple[Expression, ...], names: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The rows of some fragments, as the table has them."""
    table = place.open()
    request = ScanRequest(
        columns=names or (ROW_ID,),
        where=Conditions(terms, "duckdb").bound(table.snapshot.schema),
        batch_rows=_BATCH_ROWS,
        fragments=fragments,
    )
    for batch in table.engine.scan(table.snapshot, request):
        if batch.num_rows:
            yield batch
