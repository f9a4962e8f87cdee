"""Fixtures that every test may use: stores of each kind, table locations, and the servers behind them."""

from __future__ import annotations

import functools
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import hypothesis
import pytest
from stores.range_server import RangeServer

from lake_format.store import Store, forget_memory, open_store
from lake_format.store.local import LocalStore

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a test may create a table: what ``lake.create`` and ``open_store`` take."""

    uri: str
    storage_options: dict[str, str] = field(default_factory=dict)

    def store(self) -> Store:
        return open_store(self.uri, self.storage_options)


LONGEST = (
    "test_spark.py",
    "test_notebooks.py",
    "test_conformance.py",
    "test_state_machine.py",
    "test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest is begun first, so that of several processes none works on alone in the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """A loopback S3 by moto, which keeps the real one's conditional semantics; started when first needed."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # S3 decides and stores in one step. Moto looks and then stores, so that of two requests both may win.
    S3Response.put_object = _one_at_a_time(S3Response.put_object)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    @functools.wraps(function)
    def locked(*arguments: Any, **options: Any) -> Any:
        with lock:
            return function(*arguments, **options)

    return locked


@pytest.fixture
def s3_location(moto_endpoint: str) -> Location:
    """A prefix in a fresh bucket of moto."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    urlopen(Request(f"{moto_endpoint}/{bucket}", method="PUT")).close()
    options = {
        "endpoint": moto_endpoint,
        "access_key_id": "test",
        "secret_access_key": "test",
        "region": "us-east-1",
    }
    return Location(f"s3://{bucket}/lake/table", options)


@pytest.fixture
def memory_location() -> Iterator[Location]:
    """A memory store that is emptied after the test."""
    uri = f"memory://test-{uuid.uuid4().hex[:12]}/table"
    yield Location(uri)
    forget_memory(uri)


@pytest.fixture
def local_location(tmp_path: Path) -> Location:
    """A folder on local disk that does not exist yet."""
    return Location(str(tmp_path / "lake" / "table"))


@pytest.fixture
def range_server(tmp_path: Path) -> Iterator[Callable[..., RangeServer]]:
    """Start a :class:`RangeServer` over a fresh local folder (or ``backing=``); takes its other options."""
    with ExitStack() as running:

        def start(backing: Store | None = None, **options: Any) -> RangeServer:
            backing = backing if backing is not None else LocalStore(tmp_path / "served", sync=False)
            return running.enter_context(RangeServer(backing, **options))

        yield start


@pytest.fixture
def ranged_location(range_server: Callable[..., RangeServer]) -> Location:
    """A prefix of a loopback S3 that serves a local folder without added latency."""
    server = range_server(latency=0.0)
    return Location(server.uri("lake/table"), server.storage_options)


@pytest.fixture(params=["local", "memory", "s3"])
def table_uri(request: pytest.FixtureRequest) -> Location:
    """Where a table may be created, in each kind of storage; has ``uri`` and ``storage_options``."""
    location = request.getfixturevalue(f"{request.param}_location")
    assert isinstance(location, Location)
    return location


@pytest.fixture(params=["local", "memory", "s3", "ranged"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """An empty store of each kind; ``ranged`` is a local folder behind :class:`RangeServer`."""
    location = request.getfixturevalue(f"{request.param}_location")
    assert isinstance(location, Location)
    return location.store()
