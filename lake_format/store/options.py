"""The names of storage options: which exist for which kind of store, and the other names people know them by.

Turns what a user wrote (``aws_endpoint_url``, ``AWS_REGION``, ``anon``) into the names obstore knows, and
refuses everything else by name. Pure functions: no store is opened and no environment read here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from lake_format.errors import InvalidInputError

__all__ = ["Options", "parse_options"]

Value = str | bool | int | float

_CLIENT: Final = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "proxy_url",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)
_RETRY: Final = frozenset({"max_retries", "retry_timeout"})

_KNOWN: Final[dict[str, frozenset[str]]] = {
    "file": frozenset({"sync", "follow_symlinks"}),
    "memory": frozenset(),
    "http": frozenset(),
    "s3": frozenset(
        {
            "access_key_id",
            "aws_endpoint_url_s3",
            "checksum_algorithm",
            "container_authorization_token_file",
            "container_credentials_full_uri",
            "container_credentials_relative_uri",
            "endpoint",
            "imdsv1_fallback",
            "metadata_endpoint",
            "region",
            "request_payer",
            "role_arn",
            "role_session_name",
            "s3_express",
            "secret_access_key",
            "server_side_encryption",
            "session_token",
            "skip_signature",
            "sse_bucket_key_enabled",
            "sse_customer_key_base64",
            "sse_kms_key_id",
            "sts_endpoint",
            "unsigned_payload",
            "virtual_hosted_style_request",
            "web_identity_token_file",
        }
    ),
    "gs": frozenset(
        {
            "application_credentials",
            "base_url",
            "bearer_token",
            "service_account",
            "service_account_key",
            "skip_signature",
        }
    ),
    "az": frozenset(
        {
            "account_key",
            "account_name",
            "authority_host",
            "client_id",
            "client_secret",
            "endpoint",
            "federated_token_file",
            "msi_endpoint",
            "object_id",
            "sas_key",
            "skip_signature",
            "tenant_id",
            "token",
            "use_azure_cli",
            "use_emulator",
            "use_fabric_endpoint",
        }
    ),
}

_OTHER_NAMES: Final[dict[str, dict[str, str]]] = {
    "s3": {
        "access_key": "access_key_id",
        "anon": "skip_signature",
        "anonymous": "skip_signature",
        "default_region": "region",
        "endpoint_override": "endpoint",
        "endpoint_url": "endpoint",
        "endpoint_url_s3": "aws_endpoint_url_s3",
        "secret_key": "secret_access_key",
        "token": "session_token",
        "virtual_hosted_style": "virtual_hosted_style_request",
    },
    "gs": {
        "anon": "skip_signature",
        "anonymous": "skip_signature",
        "endpoint": "base_url",
        "service_account_path": "service_account",
        "token": "bearer_token",
    },
    "az": {
        "access_key": "account_key",
        "account": "account_name",
        "anon": "skip_signature",
        "bearer_token": "token",
        "sas_token": "sas_key",
    },
}

_VENDOR_PREFIXES: Final[dict[str, tuple[str, ...]]] = {
    "s3": ("aws_", "s3_", "s3."),
    "gs": ("google_", "gcs_", "gs_"),
    "az": ("azure_storage_", "azure_", "az_"),
}

_SECRET_MARKS: Final = ("secret", "token", "key", "sas", "credential")
_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, slots=True)
class Options:
    """Storage options under their own names, sorted by whom they concern.

    Attributes
    ----------
    store
        What the store's constructor takes.
    client
        What the HTTP client takes.
    max_retries
        How often a failed request is repeated.
    retry_timeout
        After how long no further repetition is begun.
    secrets
        Values that no message may show.
    """

    store: dict[str, str] = field(default_factory=dict)
    client: dict[str, str | bool] = field(default_factory=dict)
    max_retries: int = 6
    retry_timeout: timedelta = timedelta(seconds=60)
    secrets: tuple[str, ...] = ()

    def flag(self, name: str, *, default: bool) -> bool:
        """Return the store option ``name`` as a truth value."""
        return _truth(name, self.store[name]) if name in self.store else default


def parse_options(kind: str, given: Mapping[str, Value] | None) -> Options:
    """Return what ``given`` says to a store of ``kind`` (file, memory, http, s3, gs or az).

    Raises
    ------
    InvalidInputError
        An option does not exist for this kind, is given twice under two names, or has a value of the wrong
        kind. The message names the option, never a value.
    """
    named: dict[str, Value] = {}
    for written, value in (given or {}).items():
        name = _own_name(kind, written)
        if name in named:
            raise InvalidInputError(f"storage option {name!r} is given twice, once as {written!r}")
        if not isinstance(value, str | bool | int | float):
            raise InvalidInputError(f"storage option {written!r} must be text, not {type(value).__name__}")
        named[name] = value
    retries = _number("max_retries", named.pop("max_retries", 6))
    seconds = _number("retry_timeout", named.pop("retry_timeout", 60))
    client: dict[str, str | bool] = {}
    for name in sorted(_CLIENT & named.keys()):
        value = named.pop(name)
        client[name] = _truth(name, value) if name.startswith("allow_") else _duration(name, value)
    store = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in named.items()
    }
    return Options(
        store=store,
        client=client,
        max_retries=int(retries),
        retry_timeout=timedelta(seconds=seconds),
        secrets=tuple(value for name, value in store.items() if any(mark in name for mark in _SECRET_MARKS)),
    )


def _own_name(kind: str, written: object) -> str:
    """Return the one name of an option that has several, or refuse it."""
    if not isinstance(written, str):
        raise InvalidInputError(f"names of storage options are text, not {type(written).__name__}")
    known = _KNOWN[kind] if kind in ("file", "memory") else _KNOWN[kind] | _CLIENT | _RETRY
    lowered = written.lower()
    candidates = [lowered]
    candidates += [lowered.removeprefix(prefix) for prefix in _VENDOR_PREFIXES.get(kind, ())]
    for candidate in candidates:
        name = _OTHER_NAMES.get(kind, {}).get(candidate, candidate)
        if name in known:
            return name
    if not known:
        raise InvalidInputError(f"unknown storage option {written!r}", fix=f"{kind} stores take none")
    near = difflib.get_close_matches(lowered, known, n=1)
    raise InvalidInputError(
        f"unknown storage option {written!r}",
        fix=f"did you mean {near[0]!r}?" if near else f"{kind} stores take {', '.join(sorted(known))}",
    )


def _truth(name: str, value: Value) -> bool:
    text = str(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise InvalidInputError(f"storage option {name!r} must be true or false")


def _number(name: str, value: Value) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6:
        raise InvalidInputError(f"storage option {name!r} must be a number from 0 up")
    return number


def _duration(name: str, value: Value) -> str:
    """Return a client option as text; bare numbers of a timeout are seconds."""
    text = str(value)
    if name.endswith("timeout") and text.replace(".", "", 1).isdigit():
        return f"{round(float(text) * 1000)}ms"
    return text
