"""The tables of a folder: which of the folders directly below a place hold a table.

A folder of tables is nothing but a folder; nothing is registered anywhere. Listing skips from folder to folder, so
that it costs two requests a folder however many objects the tables have.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from lake_format.paths import VERSIONS
from lake_format.store import open_store
from lake_format.store.base import Store

__all__ = ["list_tables", "table_uri"]

_BEHIND = "\U0010ffff"
"""Sorts behind whatever a folder holds."""


def list_tables(
    uri: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, str] | None = None,
    store: Store | None = None,
) -> list[str]:
    """The names of the tables in a folder; open one with ``lake.open(f"{uri}/{name}")``.

    Parameters
    ----------
    uri
        A folder: a local path, ``s3://bucket/prefix`` and so on. Tables deeper below are not listed.
    storage_options, store
        As for :func:`lake_format.open`.

    Returns
    -------
    list of str
        In ascending order; empty where the folder holds no table or does not exist.

    Raises
    ------
    UnsupportedError
        The store cannot be listed (a web server).
    """
    root = store or open_store(os.fspath(uri), storage_options)
    names: list[str] = []
    after: str | None = None
    while (found := next(iter(root.list("", after=after)), None)) is not None:
        name, slash, _ = found.path.partition("/")
        after = f"{name}/{_BEHIND}" if slash else found.path
        if slash and next(iter(root.list(f"{name}/{VERSIONS}")), None) is not None:
            names.append(name)
    return names


def table_uri(folder: str | os.PathLike[str], name: str) -> str:
    """Where the table of that name in a folder lies."""
    return f"{os.fspath(folder).rstrip('/')}/{name}"
