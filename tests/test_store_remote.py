"""The remote store's own promises: what is repeated and what never, concurrency, paging, and safe messages."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from conftest import Location
from stores.range_server import Fault, RangeServer, _Answer

from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    NotFoundError,
    NotWrittenError,
    StorageError,
    UnsupportedError,
)
from lake_format.store import ByteRange, Store, open_store
from lake_format.store.probe import create_first
from lake_format.store.remote_errors import clean

Servers = Callable[..., RangeServer]


def served(server: RangeServer, **options: object) -> Store:
    return open_store(server.uri("t"), {**server.storage_options, **options})


def faults(method: str, *answers: Fault | None) -> Callable[[str, str], Fault | None]:
    """Give the first requests of ``method`` these faults, and none to the others."""
    left = list(answers)
    return lambda asked, _key: left.pop(0) if asked == method and left else None


@pytest.mark.parametrize("fault", ["drop_after", "drop_before", 500, 503])
def test_create_is_never_repeated(range_server: Servers, fault: Fault) -> None:
    """A repeated create would meet its own object and report a conflict; spec: STO-23."""
    server = range_server(latency=0.0)
    server.fault = faults("PUT", fault)
    store = served(server)
    with pytest.raises(StorageError, match="t/v1"):
        store.create("v1", b"mine")
    assert server.count("PUT") == 1
    if fault == "drop_after":
        assert store.get("v1") == b"mine"
        with pytest.raises(AlreadyExistsError):
            store.create("v1", b"again")
    else:
        store.create("v1", b"again")
        assert store.get("v1") == b"again"


@pytest.mark.parametrize(
    ("body", "kind"),
    [("ConditionalRequestConflict", StorageError), ("BlobAlreadyExists", AlreadyExistsError)],
)
def test_a_conflict_under_way_decides_nothing(
    range_server: Servers, monkeypatch: pytest.MonkeyPatch, body: str, kind: type[Exception]
) -> None:
    """S3 answers 409 while another write runs, which may yet fail; Azure's 409 is final; spec: STO-23."""
    server = range_server(latency=0.0)
    answer = _Answer(409, f"<Error><Code>{body}</Code></Error>".encode())
    monkeypatch.setattr(server, "_put", lambda _call: answer)
    with pytest.raises(kind):
        served(server).create("v1", b"mine")


def test_a_store_that_ignores_conditions_is_found_out(range_server: Servers) -> None:
    """# spec: STO-26."""
    honest, careless = range_server(latency=0.0), range_server(latency=0.0, ignores_conditions=True)
    create_first(served(honest), "v0", b"first")
    assert served(honest).get("v0") == b"first"
    with pytest.raises(AlreadyExistsError):
        create_first(served(honest), "v0", b"second")
    assert served(honest).get("v0") == b"first"
    with pytest.raises(UnsupportedError, match="does not refuse"):
        create_first(served(careless), "v1", b"first")


def test_reads_are_repeated(range_server: Servers) -> None:
    server = range_server(latency=0.0)
    server.backing.create("t/x", b"0123456789")
    server.fault = faults("GET", 503, "drop_before", None, 500)
    store = served(server)
    assert store.get("x") == b"0123456789"
    assert store.get_ranges([ByteRange("x", 2, 3)]) == [b"234"]
    assert server.count("GET") == 5


def test_repetition_can_be_turned_off_and_ends(range_server: Servers) -> None:
    server = range_server(latency=0.0)
    server.backing.create("t/x", b"0123456789")
    server.fault = lambda _method, _key: 503
    with pytest.raises(StorageError):
        served(server, max_retries=0).get("x")
    assert server.count("GET") == 1


@pytest.mark.parametrize("fault", ["drop_after", "drop_before", 503])
def test_a_writer_repeats_its_only_request_and_knows_its_own_object(
    range_server: Servers, fault: Fault
) -> None:
    """File names are random, so unlike a commit a file may be tried again; spec: STO-23."""
    server = range_server(latency=0.0)
    server.fault = faults("PUT", fault)
    store = served(server)
    with store.open_writer("file") as writer:
        writer.write(b"data")
    assert store.get("file") == b"data"
    assert server.count("PUT") == 2


def test_a_writer_does_not_take_another_ones_object_for_its_own(range_server: Servers) -> None:
    server = range_server(latency=0.0)
    store = served(server)
    writer = store.open_writer("file")
    writer.write(b"data")

    def another_was_faster(method: str, key: str) -> Fault | None:
        if method == "PUT" and server.count("PUT") == 0:
            server.backing.create(key, b"tada")
            return 503
        return None

    server.fault = another_was_faster
    with pytest.raises(AlreadyExistsError):
        writer.close()
    assert store.get("file") == b"tada"


def test_large_writes_stream_in_parts_and_aborting_leaves_no_upload(range_server: Servers) -> None:
    """# spec: STO-13."""
    server = range_server(latency=0.0)
    store = served(server)
    writer = store.open_writer("big")
    for _ in range(18):
        writer.write(bytes(1 << 20))
    assert server.open_uploads == 1
    writer.abort()
    deadline = time.monotonic() + 5
    while server.open_uploads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.open_uploads == 0
    with store.open_writer("big") as writer:
        for _ in range(18):
            writer.write(b"abcdefgh" * (1 << 17))
    assert store.get("big") == b"abcdefgh" * (18 << 17)
    assert server.open_uploads == 0
    largest = max(request.received for request in server.requests)
    assert largest == 8 << 20


def test_a_failed_part_fails_the_writer(range_server: Servers) -> None:
    server = range_server(latency=0.0)
    server.fault = lambda method, _key: 403 if method == "PUT" else None
    store = served(server, max_retries=0)

    def write_much() -> None:
        with store.open_writer("big") as writer:
            for _ in range(18):
                writer.write(bytes(1 << 20))

    with pytest.raises(StorageError, match=r"t/big.*permission denied"):
        write_much()
    assert list(server.backing.list("")) == []


def test_128_requests_are_under_way_at_a_time(range_server: Servers) -> None:
    server = range_server(latency=0.1)
    server.backing.create("t/x", bytes(range(256)) * 10)
    store = served(server)
    ranges = [ByteRange("x", number, 2) for number in range(200)]
    assert store.get_ranges(ranges) == [bytes([number, number + 1]) for number in range(200)]
    assert server.most_in_flight == 128
    assert server.rounds() == 2


def test_the_first_failed_range_stops_the_rest(range_server: Servers) -> None:
    server = range_server(latency=0.0, waves=False)
    server.backing.create("t/x", bytes(1000))
    store = served(server)
    ranges = [ByteRange("missing", 0, 1)] + [ByteRange("x", 0, 10)] * 5_000
    with pytest.raises(NotFoundError, match="t/missing"):
        store.get_ranges(ranges)
    assert server.count() < 5_000


def test_a_forked_process_is_told_instead_of_waiting_for_ever(range_server: Servers) -> None:
    server = range_server(latency=0.0)
    server.backing.create("t/x", b"data")
    code = """
import os, signal, sys
from lake_format.errors import UnsupportedError
from lake_format.store import open_store
options = dict(pair.split("=", 1) for pair in sys.argv[2:])
store = open_store(sys.argv[1], options)
child = os.fork()
if child == 0:  # forked before any use: works
    os._exit(0 if store.get("x") == b"data" else 1)
assert os.waitpid(child, 0)[1] == 0
store.get("x")
child = os.fork()
if child == 0:
    signal.alarm(10)
    try:
        store.get("x")
    except UnsupportedError as error:
        os._exit(0 if "spawn" in str(error) else 2)
    os._exit(3)
assert os.waitpid(child, 0)[1] == 0
"""
    options = [f"{name}={value}" for name, value in server.storage_options.items()]
    subprocess.run([sys.executable, "-c", code, server.uri("t"), *options], check=True, timeout=30)


def test_listing_is_paged(range_server: Servers) -> None:
    """# spec: STO-18."""
    server = range_server(latency=0.0, page_size=10)
    names = [f"v/{number:02}" for number in range(35)]
    for name in names:
        server.backing.create(f"t/{name}", b"")
    store = served(server)
    assert [info.path for info in store.list("v/")] == names
    assert server.count("GET") == 4
    server.reset()
    assert [info.path for info in store.list("", after="v/29")] == names[30:]
    assert server.count("GET") == 1


def test_an_answer_that_is_too_short_is_corruption(range_server: Servers) -> None:
    """# spec: STO-16."""
    server = range_server(latency=0.0)
    server.backing.create("t/x", bytes(100))
    with pytest.raises(CorruptionError, match=r"t/x has 100 bytes, but bytes 90 to 110 are expected"):
        served(server).get_ranges([ByteRange("x", 90, 20)])


def test_plain_http_is_read_only(range_server: Servers) -> None:
    """# spec: STO-24."""
    server = range_server(latency=0.0)
    server.backing.create("t/a/x", b"0123456789")
    store = open_store(f"{server.endpoint}/lake/t")
    assert store.get("a/x") == b"0123456789"
    assert store.get_ranges([ByteRange("a/x", 1, 2), ByteRange("a/x", 8, 2)]) == [b"12", b"89"]
    assert store.get_suffix("a/x", 3) == (b"789", 10)
    assert store.size("a/x") == 10
    with pytest.raises(NotFoundError):
        store.get("a/y")
    for write in (
        lambda: store.create("b", b""),
        lambda: store.put("b", b""),
        lambda: store.open_writer("b"),
        lambda: store.delete("a/x"),
    ):
        with pytest.raises(UnsupportedError, match="read-only"):
            write()
    with pytest.raises(UnsupportedError, match="cannot be listed"):
        list(store.list(""))


def test_credentials_and_endpoint_may_come_from_the_environment(
    s3_location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_location.storage_options["endpoint"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    store = open_store(s3_location.uri)
    store.create("x", b"x")
    assert s3_location.store().get("x") == b"x"


def test_a_missing_bucket_is_said(s3_location: Location) -> None:
    store = open_store("s3://no-such-bucket/t", s3_location.storage_options)
    for call in (lambda: store.get("x"), lambda: store.create("x", b""), lambda: list(store.list(""))):
        with pytest.raises(NotFoundError, match="bucket does not exist"):
            call()


def test_an_endpoint_that_nobody_serves_is_said_soon() -> None:
    options = {
        "endpoint": "http://127.0.0.1:9",
        "access_key_id": "a",
        "secret_access_key": "b",
        "max_retries": 1,
    }
    start = time.monotonic()
    with pytest.raises(StorageError, match="could not be reached") as caught:
        open_store("s3://bucket/t", options).get("x")
    assert time.monotonic() - start < 5
    assert "check endpoint" in (caught.value.fix or "")
    options["allow_http"] = False
    with pytest.raises(StorageError, match="allow_http=true"):
        open_store("s3://bucket/t", options).get("x")


def test_a_create_that_is_denied_was_not_written(range_server: Servers) -> None:
    """A server that fails otherwise leaves it open."""
    server = range_server(latency=0.0)
    store = served(server, max_retries=0)
    for status, certain in ((403, True), (500, False)):
        server.fault = lambda _method, _key, status=status: status
        with pytest.raises(StorageError) as caught:
            store.create("x", b"1")
        assert isinstance(caught.value, NotWrittenError) == certain


def test_no_message_shows_credentials(range_server: Servers) -> None:
    """# spec: STO-25."""
    server = range_server(latency=0.0)
    secret = "hunter2-secret-value"
    server.fault = lambda _method, _key: 403
    store = served(server, secret_access_key=secret, session_token=secret + "-token", max_retries=0)
    with pytest.raises(StorageError, match="permission denied") as caught:
        store.get("x")
    texts = [str(caught.value), repr(caught.value), repr(store), store.uri]
    assert caught.value.__suppress_context__
    assert not [text for text in texts if secret in text]


def test_messages_are_cleaned_of_signatures_and_noise() -> None:
    """# spec: STO-25."""
    raw = (
        "Generic S3 error: Error performing GET https://user:pw@h.example/b/k?X-Sig=abc&sas=1 in 2ms - Server "
        'returned non-2xx status code: 403 Forbidden: <?xml version="1.0"?><Error><Code>AccessDenied</Code>'
        "<Message>No way</Message></Error>\n\nDebug source:\nGeneric { token: 123 }"
    )
    cleaned = clean(raw, ("example",))
    assert cleaned == (
        "Generic S3 error: Error performing GET https://h.***/b/k in 2ms - Server returned non-2xx status code: "
        "403 Forbidden (AccessDenied: No way)"
    )
    assert len(clean("x" * 5_000)) == 400
