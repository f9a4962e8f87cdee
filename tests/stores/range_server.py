"""A loopback HTTP server that speaks enough S3 for obstore and tells how many dependent rounds a job took.

It serves any :class:`Store` as a bucket: GET with ranges, HEAD, ListObjectsV2, PUT (also with
``If-None-Match: *``), DELETE, and multipart uploads. Every request waits for an injected latency and is
recorded; :meth:`RangeServer.rounds` is the length of the longest chain of requests of which each began after
the one before had been answered. Signatures are not looked at. For the exact semantics of S3 there is moto.
"""

from __future__ import annotations

import asyncio
import email.utils
import threading
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Self
from xml.sax.saxutils import escape

from lake_format.errors import AlreadyExistsError, LakeError, NotFoundError
from lake_format.store.base import ByteRange, Store

BUCKET = "lake"

Fault = Literal["drop_before", "drop_after"] | int
"""Close the connection before or after the effect of a request, or answer with this HTTP status."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the server saw it; times in seconds of the monotonic clock, sizes in bytes."""

    started: float
    finished: float
    method: str
    key: str
    range: str | None
    status: int
    sent: int
    received: int


@dataclass(slots=True)
class _Call:
    """A parsed HTTP request."""

    method: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


_REASONS = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    404: "Not Found",
    412: "Precondition Failed",
    416: "Range Not Satisfiable",
}


class RangeServer:
    """Serve ``backing`` as the bucket ``lake`` on a loopback port, in a thread of its own.

    Parameters
    ----------
    backing
        Where objects are; a key's path below the bucket is the object's path.
    latency
        Seconds each request waits.
    waves
        Answer only once no request has arrived for ``latency`` seconds. Requests that a client issues
        together are then answered together however slow the machine is, which makes rounds exact; without
        it, latency is what a network would do, for timings.
    bytes_per_second
        Bandwidth that all answers share; None for no limit.
    page_size
        Most keys a listing answers at once.
    ignores_conditions
        Take every PUT as unconditional, as some S3 lookalikes do.
    """

    def __init__(
        self,
        backing: Store,
        *,
        latency: float = 0.03,
        waves: bool = True,
        bytes_per_second: float | None = None,
        page_size: int = 1000,
        ignores_conditions: bool = False,
    ) -> None:
        self.backing = backing
        self.latency = latency
        self.waves = waves
        self.bytes_per_second = bytes_per_second
        self.page_size = page_size
        self.ignores_conditions = ignores_conditions
        self.fault: Callable[[str, str], Fault | None] | None = None
        self.requests: list[Request] = []
        self.most_in_flight = 0
        self._in_flight = 0
        self._last_arrival = 0.0
        self._line_busy_until = 0.0
        self._parts: dict[str, dict[int, bytes]] = {}
        self._modified = email.utils.formatdate(usegmt=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="range-server", daemon=True)
        self._port: int | None = None
        self._ready = threading.Event()

    # -- for tests -------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10), "the range server did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def storage_options(self) -> dict[str, str]:
        return {
            "endpoint": self.endpoint,
            "access_key_id": "test",
            "secret_access_key": "test",
            "region": "us-east-1",
        }

    def uri(self, prefix: str = "") -> str:
        return f"s3://{BUCKET}/{prefix}"

    def reset(self) -> None:
        """Forget the requests so far."""
        self.requests = []
        self.most_in_flight = 0

    def rounds(self) -> int:
        """Length of the longest chain of requests that each began after the one before had ended."""
        chain, end = 0, float("-inf")
        for request in sorted(self.requests, key=lambda each: each.finished):
            if request.started >= end:
                chain, end = chain + 1, request.finished
        return chain

    def count(self, method: str | None = None) -> int:
        return sum(1 for request in self.requests if method in (None, request.method))

    def bytes_sent(self) -> int:
        return sum(request.sent for request in self.requests)

    @property
    def open_uploads(self) -> int:
        """Multipart uploads begun and neither completed nor aborted."""
        return len(self._parts)

    # -- the server ------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", 0, limit=1 << 20, backlog=512)
        )
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (call := await _read_call(reader)) is not None:
                if not await self._serve(call, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client went away, or the test is over
        finally:
            writer.close()

    async def _serve(self, call: _Call, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False if the connection is to be dropped."""
        started = time.monotonic()
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            await self._wait(started)
            fault = self.fault(call.method, call.key) if self.fault is not None else None
            if fault == "drop_before":
                answer = None
            elif isinstance(fault, int):
                answer = _error(fault, "InjectedFault")
            else:
                answer = self._answer(call)
                answer = None if fault == "drop_after" else answer
            if answer is not None:
                await self._pace(len(answer.body))
        finally:
            self._in_flight -= 1
        # Recorded before the answer leaves: what the client does next is certainly later.
        self.requests.append(
            Request(
                started=started,
                finished=time.monotonic(),
                method=call.method,
                key=call.key,
                range=call.headers.get("range"),
                status=answer.status if answer is not None else 0,
                sent=len(answer.body) if answer is not None and call.method != "HEAD" else 0,
                received=len(call.body),
            )
        )
        if answer is None:
            return False
        writer.write(_encode(answer, call.method))
        await writer.drain()
        return True

    async def _wait(self, started: float) -> None:
        self._last_arrival = started
        while (left := (self._last_arrival if self.waves else started) + self.latency - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _pace(self, size: int) -> None:
        if self.bytes_per_second is not None:
            now = time.monotonic()
            self._line_busy_until = max(self._line_busy_until, now) + size / self.bytes_per_second
            await asyncio.sleep(self._line_busy_until - now)

    # -- S3 --------------------------------------------------------------------------------------------

    def _answer(self, call: _Call) -> _Answer:
        try:
            if call.key == "":
                return self._delete_many(call) if "delete" in call.query else self._list(call)
            if "uploads" in call.query or "uploadId" in call.query:
                return self._multipart(call)
            return {"GET": self._get, "HEAD": self._head, "PUT": self._put, "DELETE": self._delete}[
                call.method
            ](call)
        except NotFoundError:
            return _error(404, "NoSuchKey")
        except AlreadyExistsError:
            return _error(412, "PreconditionFailed")
        except LakeError as error:
            return _error(500, str(error))

    def _object_headers(self, size: int) -> dict[str, str]:
        return {"ETag": f'"{size:032x}"', "Last-Modified": self._modified, "Accept-Ranges": "bytes"}

    def _get(self, call: _Call) -> _Answer:
        wanted = call.headers.get("range")
        if wanted is None:
            data = self.backing.get(call.key)
            return _Answer(200, data, self._object_headers(len(data)))
        first, last = wanted.removeprefix("bytes=").split("-")
        if first == "":
            data, size = self.backing.get_suffix(call.key, int(last))
            start = size - len(data)
        else:
            size, start = self.backing.size(call.key), int(first)
            end = min(int(last) + 1, size) if last else size
            if start >= size:
                return _error(416, "InvalidRange")
            data = self.backing.get_ranges([ByteRange(call.key, start, end - start)])[0]
        headers = self._object_headers(size) | {
            "Content-Range": f"bytes {start}-{start + len(data) - 1}/{size}"
        }
        return _Answer(206, data, headers)

    def _head(self, call: _Call) -> _Answer:
        size = self.backing.size(call.key)
        return _Answer(200, b"", self._object_headers(size) | {"Content-Length": str(size)})

    def _put(self, call: _Call) -> _Answer:
        if call.headers.get("if-none-match") == "*" and not self.ignores_conditions:
            self.backing.create(call.key, call.body)
        else:
            self.backing.put(call.key, call.body)
        return _Answer(200, b"", {"ETag": f'"{len(call.body):032x}"'})

    def _delete(self, call: _Call) -> _Answer:
        self.backing.delete(call.key)
        return _Answer(204)

    def _delete_many(self, call: _Call) -> _Answer:
        root = ElementTree.fromstring(call.body)
        keys = [element.text or "" for element in root.iter() if element.tag.rpartition("}")[2] == "Key"]
        for key in keys:
            self.backing.delete(key)
        deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _xml(f"<DeleteResult>{deleted}</DeleteResult>")

    def _multipart(self, call: _Call) -> _Answer:
        upload = call.query.get("uploadId", "")
        if call.method == "POST" and "uploads" in call.query:
            upload = uuid.uuid4().hex
            self._parts[upload] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(call.key)}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        if call.method == "PUT":
            number = int(call.query["partNumber"])
            self._parts[upload][number] = call.body
            return _Answer(200, b"", {"ETag": f'"part-{number}"'})
        parts = self._parts.pop(upload, {})
        if call.method == "POST":
            self.backing.put(call.key, b"".join(parts[number] for number in sorted(parts)))
            return _xml(
                f"<CompleteMultipartUploadResult><Key>{escape(call.key)}</Key><ETag>whole</ETag>"
                "</CompleteMultipartUploadResult>"
            )
        return _Answer(204)

    def _list(self, call: _Call) -> _Answer:
        prefix = call.query.get("prefix", "")
        after = max(call.query.get("continuation-token", ""), call.query.get("start-after", ""))
        folder = prefix[: prefix.rfind("/") + 1]
        contents: list[str] = []
        last, token = "", None
        for info in self.backing.list(folder, after=after or None):
            if not info.path.startswith(prefix):
                continue
            if len(contents) == self.page_size:
                token = last
                break
            last = info.path
            changed = datetime.fromtimestamp(info.modified_at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            contents.append(
                f"<Contents><Key>{escape(info.path)}</Key><LastModified>{changed}</LastModified>"
                f'<ETag>"{info.size:032x}"</ETag><Size>{info.size}</Size></Contents>'
            )
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        return _xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(contents)}</KeyCount><IsTruncated>{'true' if token else 'false'}</IsTruncated>"
            f"{more}{''.join(contents)}</ListBucketResult>"
        )


async def _read_call(reader: asyncio.StreamReader) -> _Call | None:
    """The next request of a connection, or None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urllib.parse.urlsplit(target)
    key = urllib.parse.unquote(parts.path).removeprefix(f"/{BUCKET}").lstrip("/")
    return _Call(
        method, key, dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)), headers, body
    )


def _encode(answer: _Answer, method: str) -> bytes:
    headers = {"Content-Length": str(len(answer.body))} | answer.headers
    lines = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == "HEAD" else head + answer.body


def _xml(text: str) -> _Answer:
    return _Answer(
        200, ('<?xml version="1.0" encoding="UTF-8"?>' + text).encode(), {"Content-Type": "text/xml"}
    )


def _error(status: int, code: str) -> _Answer:
    return _Answer(
        status, f"<Error><Code>{escape(code)}</Code></Error>".encode(), {"Content-Type": "text/xml"}
    )
