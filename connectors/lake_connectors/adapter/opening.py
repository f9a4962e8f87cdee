"""The table behind what a user hands to a connector: a table, or where one is."""

from __future__ import annotations

import os
from collections.abc import Mapping

import lake_format as lake
from lake_format.errors import InvalidInputError
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["opened"]


def opened(
    table: Table | str | os.PathLike[str],
    version: int | None = None,
    storage_options: Mapping[str, str] | None = None,
    allow_external: AllowExternal | None = None,
) -> Table:
    """The table; ``version``, ``storage_options`` and ``allow_external`` go with a URI.

    Raises
    ------
    InvalidInputError
        One of them beside a table that is open already.
    NotFoundError
        There is no table at the URI, or no such version.
    """
    if not isinstance(table, Table):
        return lake.open(
            os.fspath(table), version, storage_options=storage_options, allow_external=allow_external
        )
    beside = {"version": version, "storage_options": storage_options, "allow_external": allow_external}
    given = next((name for name, value in beside.items() if value is not None), None)
    if given is not None:
        raise InvalidInputError(f"{given}= goes with a URI", fix="open the table with it")
    return table
