"""From a URI to a store: the one place that knows schemes and what the environment adds to the options.

It opens nothing over the network: a store is a value until it is asked for something.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from lake_format.errors import InvalidInputError
from lake_format.store.base import Store
from lake_format.store.local import LocalStore
from lake_format.store.options import Options, Value, parse_options
from lake_format.store.paths import is_store_path

__all__ = ["forget_memory", "open_store"]

_KINDS: Final = {
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
}
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?::[0-9]+)?")
_AZURE_HOST: Final = re.compile(r"([a-z0-9$-]+)@([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net")
_S3_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

_BACKOFF: Final = {
    "init_backoff": timedelta(milliseconds=100),
    "max_backoff": timedelta(seconds=5),
    "base": 2,
}

_memory: dict[str, Any] = {}
_memory_lock = threading.Lock()


def open_store(uri: str | os.PathLike[str], storage_options: Mapping[str, Value] | None = None) -> Store:
    """Return the store at ``uri``; nothing is read or made yet.

    Parameters
    ----------
    uri
        A local path, ``file:///path``, ``memory://name`` (shared by the whole process), ``s3://bucket/prefix``
        (also ``s3a``), ``gs://bucket/prefix`` (also ``gcs``), ``az://container/prefix``,
        ``abfss://container@account.dfs.core.windows.net/prefix``, or ``http(s)://host/prefix`` (read-only).
    storage_options
        Endpoint, region, credentials and the like, by their usual names in any case, with or without the
        vendor's prefix: ``endpoint`` or ``AWS_ENDPOINT_URL``, ``access_key_id``, ``secret_access_key``,
        ``region``, ``allow_http``, ``skip_signature``, ``timeout`` (seconds), ``max_retries`` … They add to
        and override the environment. Local paths take ``sync`` and ``follow_symlinks``.

    Raises
    ------
    InvalidInputError
        The scheme or an option is unknown, or the URI is malformed, names credentials, or has a query.
    """
    text = os.fspath(uri)
    if not isinstance(text, str) or text == "" or "\x00" in text:
        raise InvalidInputError(
            "the table's URI is empty or not text", fix="give a path or a URI such as s3://b/t"
        )
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _open_local(text, os.path.expanduser(text), storage_options)
    scheme, rest = match[1].lower(), match[2]
    kind = _KINDS.get(scheme)
    if kind is None:
        raise InvalidInputError(
            f"unknown URI scheme {scheme!r}", fix=f"known are a local path and {', '.join(sorted(_KINDS))}"
        )
    if kind == "file":
        return _open_local(text, _file_path(rest), storage_options)
    return _open_remote(kind, scheme, rest, parse_options(kind, storage_options))


def forget_memory(uri: str) -> None:
    """Free what ``memory://name`` holds; the next use of that name starts empty."""
    name = uri.removeprefix("memory://").partition("/")[0]
    with _memory_lock:
        _memory.pop(name, None)


def _open_local(uri: str, path: str, storage_options: Mapping[str, Value] | None) -> Store:
    options = parse_options("file", storage_options)
    return LocalStore(
        path,
        uri=uri,
        sync=options.flag("sync", default=True),
        follow_symlinks=options.flag("follow_symlinks", default=False),
    )


def _file_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InvalidInputError("a file URI needs an absolute path", fix="write file:///folder/table")
    return "/" + urllib.parse.unquote(path)


def _open_remote(kind: str, scheme: str, rest: str, options: Options) -> Store:
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.rstrip("/")
    extra: dict[str, str] = {}
    azure = _AZURE_HOST.fullmatch(bucket) if scheme.startswith("abfs") else None
    if azure is not None:
        bucket, extra["account_name"] = azure.groups()
    # Said before anything that shows the URI: what stands before an @ may be a password.
    if "@" in bucket:
        raise InvalidInputError(
            f"a {scheme} URI must not hold credentials",
            fix="give them in storage_options or in the environment",
        )
    if "?" in rest or "#" in rest:
        raise InvalidInputError(
            f"a {scheme} URI must not hold a query", fix="give options in storage_options"
        )
    uri = f"{scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
    if _BUCKET.fullmatch(bucket) is None or (prefix and not is_store_path(prefix)):
        raise InvalidInputError(f"malformed URI {uri!r}", fix=f"write {scheme}://bucket/path/of/table")
    if kind == "memory":
        return _memory_store(uri, bucket, prefix)
    return _network_store(kind, uri, options, config={**extra, **options.store})


def _memory_store(uri: str, name: str, prefix: str) -> Store:
    import obstore.store  # noqa: PLC0415 - optional weight: local tables never need it

    from lake_format.store.remote import ObjectStore  # noqa: PLC0415

    with _memory_lock:
        client = _memory.setdefault(name, obstore.store.MemoryStore())
    return ObjectStore(client, uri=uri, prefix=prefix, in_memory=True)


def _network_store(kind: str, uri: str, options: Options, *, config: dict[str, str]) -> Store:
    import obstore.store  # noqa: PLC0415
    from obstore.exceptions import BaseError  # noqa: PLC0415

    from lake_format.store.remote import ObjectStore  # noqa: PLC0415
    from lake_format.store.remote_errors import clean  # noqa: PLC0415

    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    client = _client_options(kind, uri, config, options)

    def build(max_retries: int) -> Any:
        retry = {"max_retries": max_retries, "retry_timeout": options.retry_timeout, "backoff": _BACKOFF}
        if kind == "http":
            url = f"{scheme}://{bucket}"
            return obstore.store.HTTPStore.from_url(url, client_options=client, retry_config=retry)
        classes = {"s3": obstore.store.S3Store, "gs": obstore.store.GCSStore, "az": obstore.store.AzureStore}
        return classes[kind](bucket, config=config, client_options=client, retry_config=retry)

    try:
        many, once = build(options.max_retries), build(0)
    except (BaseError, ValueError, OSError) as error:
        raise InvalidInputError(f"cannot open {uri}: {clean(str(error), options.secrets)}") from None
    return ObjectStore(
        many,
        once=once,
        uri=uri,
        prefix=prefix,
        secrets=options.secrets,
        read_only=kind == "http",
        sorted_listing=not (bucket.endswith("--x-s3") or options.flag("s3_express", default=False)),
        attempts=min(options.max_retries + 1, 5),
    )


def _client_options(
    kind: str, uri: str, config: Mapping[str, str], options: Options
) -> dict[str, str | bool]:
    """Return the HTTP client's options; an endpoint written with ``http://`` is consent to plain HTTP."""
    client: dict[str, str | bool] = {"timeout": "120s", "read_timeout": "30s", **options.client}
    if "allow_http" not in client:
        if kind == "s3":
            names = (
                config.get("aws_endpoint_url_s3"),
                config.get("endpoint"),
                *map(os.environ.get, _S3_ENDPOINTS),
            )
            endpoint = next((name for name in names if name), "")
        else:
            endpoint = uri if kind == "http" else config.get("endpoint", config.get("base_url", ""))
        if endpoint.startswith("http://"):
            client["allow_http"] = True
    return client
