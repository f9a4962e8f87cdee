"""The keys side of a table: rows by their key, declaring and dropping a key (spec/keys.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from lake_format.errors import InvalidInputError
from lake_format.key_changes import DropKey, SetKey, SettleKeyIndex
from lake_format.keys import check_key_columns, key_columns
from lake_format.schema import ROW_ID, select_columns
from lake_format.table_core import TableCore
from lake_format.transaction import REFUSALS, YieldedError

__all__ = ["TableKeys"]


class TableKeys(TableCore):
    """Rows found by key, and the key itself."""

    @property
    def key(self) -> list[str]:
        """The columns that identify a row; empty for a table without key."""
        return list(key_columns(self._snapshot.version))

    def get(self, key: object, columns: Iterable[str] | None = None) -> Any:
        """Fetch rows by their key, without a scan.

        Parameters
        ----------
        key
            The key of one row, or a list (or array) of keys. Where several columns make the key, each is a tuple in
            their order, or a dictionary.
        columns
            Names, ``_row_id`` among them; None is every column.

        Returns
        -------
        dict or None, or pyarrow.Table
            For one key its row, None where there is none. For a list a table of the rows that are there, in the order
            of the keys.

        Raises
        ------
        InvalidInputError
            The table has no key, or a value that cannot be a key of it.

        >>> table.get(17, columns=["title"])  # doctest: +SKIP
        {'title': 'a title'}
        """
        names = self._require_key()
        wanted = tuple(select_columns(self._snapshot.schema, columns, extra=(ROW_ID,)))
        several = isinstance(key, list | np.ndarray | pa.Array | pa.ChunkedArray)
        rows = self._engine.get_rows(self._snapshot, self._keys(names, key if several else [key]), wanted)
        if several:
            return rows
        return rows.to_pylist()[0] if len(rows) else None

    def set_key(self, key: str | Sequence[str]) -> Self:
        """Declare which columns identify a row: from now on no two rows have the same key, whoever writes.

        All rows are looked at, in bounded memory; the columns become NOT NULL, and are indexed.

        Parameters
        ----------
        key
            One or more columns of whole numbers, booleans, dates, times, text or binary.

        Raises
        ------
        DuplicateKeyError
            Two rows have the same key; both are named. Nothing was changed.
        InvalidInputError
            A NULL in a column of the key, an unknown or unfit column.
        ConflictError
            A column was changed or another key declared at the same time.
        """
        self._require_writable()
        snapshot = self.refresh().snapshot
        names = check_key_columns(snapshot.schema, key)
        index = self._engine.build_key_index(snapshot, names, self._around.new_id)
        change = SetKey(
            engine=self._engine,
            around=self._around,
            base=snapshot,
            columns=tuple(snapshot.schema.field(name) for name in names),
            index=index,
        )
        try:
            self._commit(change, base=snapshot.version)
        except REFUSALS:
            change.discard()
            raise
        return self

    def drop_key(self) -> Self:
        """Let the table have no key any more: rows may repeat from now on. Its columns stay NOT NULL."""
        self._require_writable()
        snapshot = self.refresh().snapshot
        self._require_key()
        self._commit(DropKey(), base=snapshot.version)
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _settle_key_index(self) -> None:
        """Build the key index where there is none, merge its runs where they are many; gives way to others."""
        snapshot = self.refresh().snapshot
        names = key_columns(snapshot.version)
        if not names:
            return
        if snapshot.version.key_index is None:
            self.set_key(names)
            return
        merged = self._engine.settle_key_index(snapshot, self._around.new_id)
        if merged is None:
            return
        try:
            self._commit(SettleKeyIndex(base=snapshot, merged=merged), base=snapshot.version)
        except REFUSALS as error:
            paths = [merged.run.run.path] if merged.run is not None else []
            self._engine.discard_files(self._store, (), paths)
            if not isinstance(error, YieldedError):
                raise

    def _require_key(self) -> list[str]:
        names = self.key
        if not names:
            raise InvalidInputError("the table has no key", fix='declare one with set_key("id")')
        return names

    def _keys(self, names: Sequence[str], keys: object) -> pa.Table:
        """Keys as a table of the key's columns."""
        maps = isinstance(keys, list) and any(isinstance(one, Mapping) for one in keys)
        columns = [keys] if len(names) == 1 and not maps else _parts(names, keys)
        arrays = []
        for name, values in zip(names, columns, strict=True):
            try:
                array = values if isinstance(values, pa.ChunkedArray | pa.Array) else pa.array(values)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise InvalidInputError(f"no values of key column {name!r}: {error}") from error
            if pa.types.is_null(array.type):
                array = pa.nulls(len(array), self._snapshot.schema.field(name).type)
            arrays.append(array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array)
        return pa.Table.from_arrays(arrays, names=list(names))


def _parts(names: Sequence[str], keys: object) -> list[list[object]]:
    rows = keys if isinstance(keys, list) else list(keys)  # type: ignore[call-overload]
    columns: list[list[object]] = [[] for _ in names]
    for given in rows:
        named = isinstance(given, Mapping) and set(given) == set(names)
        row = tuple(given[name] for name in names) if named else given
        if not isinstance(row, tuple | list) or len(row) != len(names):
            raise InvalidInputError(
                f"a key of this table has the parts {', '.join(names)}, which {row!r} has not",
                fix=f"pass ({', '.join(names)}) as a tuple" if len(names) > 1 else f"pass its {names[0]}",
            )
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns
