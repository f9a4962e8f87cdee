"""The tables of a folder, on every kind of store, and what listing them costs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from conftest import Location

import lake_format as lake
from lake_format import catalog
from lake_format.store import open_store
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema([("n", pa.int64())])


def test_names_of_the_tables_in_a_folder_and_nothing_else(table_uri: Location) -> None:
    uri, options = table_uri.uri, table_uri.storage_options
    folder = table_uri.store()
    for name in ("shoes", "hats", "a-b", "hats2"):
        table = lake.create(catalog.table_uri(uri, name), SCHEMA, storage_options=options)
        table.append(pa.table({"n": [1, 2]}, SCHEMA))
    folder.create("notes.txt", b"no table")
    folder.create("other/data/x.parquet", b"no table either")
    lake.create(catalog.table_uri(uri, "deep/er"), SCHEMA, storage_options=options)
    assert lake.list_tables(uri, storage_options=options) == ["a-b", "hats", "hats2", "shoes"]
    found = lake.open(catalog.table_uri(uri, "hats"), storage_options=options)
    assert found.count() == 2


def test_a_folder_without_tables(tmp_path: Path) -> None:
    assert lake.list_tables(f"{tmp_path}/nowhere") == []


def test_two_requests_a_folder_however_many_objects_lie_in_it() -> None:
    uri = "memory://catalog-requests"
    for name in ("one", "two"):
        table = lake.create(f"{uri}/{name}", SCHEMA)
        for _ in range(5):
            table.append(pa.table({"n": [1]}, SCHEMA))
    store = MeteredStore(open_store(uri))
    assert lake.list_tables(uri, store=store) == ["one", "two"]
    assert store.usage().total_requests == 5  # two a folder, and the one that finds no more


def test_a_web_server_cannot_be_listed() -> None:
    with pytest.raises(lake.UnsupportedError, match="cannot be listed"):
        lake.list_tables("http://127.0.0.1:9/lake")
