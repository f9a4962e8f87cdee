"""A table as a ``pyarrow.dataset.Dataset``: the side of it that other libraries see.

Every public method of the base class is overridden here or in :class:`lake_format.table.Table`, or raises: an
inherited one would read a null pointer, since nothing native stands behind a table. A test walks them all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lake_format.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["TableDataset"]

_IGNORED_OPTIONS = frozenset(
    [
        "batch_size",
        "batch_readahead",
        "fragment_readahead",
        "fragment_scan_options",
        "use_threads",
        "cache_metadata",
        "memory_pool",
    ]
)
"""Tuning knobs of pyarrow's own scanner: they change speed, not rows, so accepting them is honest."""


class TableDataset(ds.Dataset):  # type: ignore[misc]  # pyarrow ships no types
    """The dataset methods, all built on one: :meth:`_scan`."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The columns and their types."""

    @abstractmethod
    def count(self, where: object | None = None) -> int:
        """The number of rows that match."""

    @abstractmethod
    def take(self, row_ids: npt.NDArray[np.uint64], columns: Iterable[str] | None = None) -> pa.Table:
        """Rows by row id."""

    @abstractmethod
    def _scan(
        self, columns: Iterable[str] | None, where: object | None, limit: int | None
    ) -> pa.RecordBatchReader:
        """Rows as a stream."""

    @property
    def partition_expression(self) -> pc.Expression:
        """True for every row: a table is not one partition of something."""
        return pc.scalar(True)

    def scanner(
        self,
        columns: list[str] | dict[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002 - the base class names it so
        **options: Any,
    ) -> ds.Scanner:
        """A scanner over the rows that match, projection and filter done by the table."""
        _check_options(options)
        if isinstance(columns, dict):
            reader = self._scan(None, filter, None)
            return ds.Scanner.from_batches(reader, columns=columns)
        return ds.Scanner.from_batches(self._scan(columns, filter, None))

    def to_table(
        self,
        columns: list[str] | dict[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        **options: Any,
    ) -> pa.Table:
        """The rows that match, in memory."""
        return self.scanner(columns, filter, **options).to_table()

    def to_batches(
        self,
        columns: list[str] | dict[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """The rows that match, batch by batch."""
        return iter(self.scanner(columns, filter, **options).to_reader())

    def head(
        self,
        num_rows: int,
        columns: list[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        **options: Any,
    ) -> pa.Table:
        """The first rows that match."""
        _check_options(options)
        return self._scan(columns, filter, num_rows).read_all()

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:  # noqa: A002
        """The number of rows that match."""
        _check_options(options)
        return self.count(filter)

    def __arrow_c_schema__(self) -> object:
        """The schema through the Arrow C interface."""
        return self.schema.__arrow_c_schema__()

    def get_fragments(self, filter: pc.Expression | None = None) -> NoReturn:  # noqa: A002
        """Not offered: a fragment's rows lie in several files that only the table can join."""
        raise UnsupportedError("get_fragments() is not offered by a table", fix="use scan() or scanner()")

    def _get_fragments(self, *_: object) -> NoReturn:
        raise UnsupportedError("get_fragments() is not offered by a table", fix="use scan() or scanner()")

    def filter(self, expression: pc.Expression) -> NoReturn:
        """Not offered: pass the filter to the read instead."""
        raise UnsupportedError("filter() is not offered by a table", fix="use scan(where=…)")

    def replace_schema(self, schema: pa.Schema) -> NoReturn:
        """Not offered: a table has one schema a version."""
        raise UnsupportedError("replace_schema() is not offered by a table", fix="cast what scan() returns")

    def join(self, *_: object, **__: object) -> NoReturn:
        """Not offered: join in an engine."""
        raise UnsupportedError("join() is not offered by a table", fix="join in DuckDB, or on to_arrow()")

    def join_asof(self, *_: object, **__: object) -> NoReturn:
        """Not offered: join in an engine."""
        raise UnsupportedError(
            "join_asof() is not offered by a table", fix="join in DuckDB, or on to_arrow()"
        )

    def sort_by(self, *_: object, **__: object) -> NoReturn:
        """Not offered: sort in an engine."""
        raise UnsupportedError("sort_by() is not offered by a table", fix="sort in DuckDB, or on to_arrow()")

    def _scanner_options(self, *_: object, **__: object) -> NoReturn:
        raise UnsupportedError("native scan options are not offered by a table")

    def _scan_options(self, *_: object, **__: object) -> NoReturn:
        raise UnsupportedError("native scan options are not offered by a table")


def _check_options(options: dict[str, Any]) -> None:
    unknown = sorted(set(options) - _IGNORED_OPTIONS)
    if unknown:
        raise InvalidInputError(f"unknown scan option {unknown[0]!r}", fix="use scan(columns, where, limit)")
