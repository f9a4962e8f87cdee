"""Errors of obstore turned into errors of lake-format: what failed, where, and how to mend it.

Messages of the client library name URLs, and URLs may carry signatures: nothing of them reaches a message
before :func:`clean` has been over it. This module decides no retries.
"""

from __future__ import annotations

import re
from typing import Final

from obstore.exceptions import (
    AlreadyExistsError as ObstoreAlreadyExistsError,
)
from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from lake_format.errors import (
    AlreadyExistsError,
    LakeError,
    MissingObjectError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)

__all__ = ["OBSTORE_ERRORS", "clean", "is_refusal", "translate"]

OBSTORE_ERRORS: Final = (BaseError, OSError, ValueError, NotImplementedError)
"""Everything that a call into obstore raises for reasons that lie outside this process."""

_DEBUG = re.compile(r"\s*Debug source:.*", re.DOTALL)
_QUERY = re.compile(r"(https?://[^\s?\"']*)\?[^\s\"']*")
_USER = re.compile(r"(https?://)[^\s/@\"']*@")
_XML_CODE = re.compile(r"<Code>([^<]*)</Code>\s*(?:<Message>([^<]*)</Message>)?")
_XML = re.compile(r":?\s*<\?xml.*|:?\s*<Error>.*", re.DOTALL)
_LONGEST: Final = 400

_CREDENTIALS_FIX: Final = (
    "give credentials in storage_options or in the environment, or skip_signature=true for public data"
)
_HINTS: Final = (
    ("status code: 403", "permission denied", _CREDENTIALS_FIX),
    ("status code: 401", "permission denied", _CREDENTIALS_FIX),
    ("169.254.169.254", "no credentials were found", _CREDENTIALS_FIX),
    ("metadata.google.internal", "no credentials were found", _CREDENTIALS_FIX),
    ("builder error", "the endpoint was refused", "for a plain http endpoint set allow_http=true"),
    ("error sending request", "the endpoint could not be reached", "check endpoint, region and network"),
)


_REFUSED: Final = ("status code: 403", "status code: 401", "builder error")


def translate(error: BaseException, doing: str, name: str, secrets: tuple[str, ...] = ()) -> LakeError:
    """Return the error a user meets for ``error``, met while ``doing`` something with ``name``.

    Parameters
    ----------
    doing
        A verb in its -ing form, such as ``"reading"``.
    name
        The object, with its root.
    secrets
        Texts that must not appear in the message.
    """
    text = str(error)
    if isinstance(error, ObstoreAlreadyExistsError):
        # S3 answers 409 while another write of the same key is under way, which decides nothing: that one may
        # still fail. obstore calls it "already exists", as it does Azure's 409, where it is true.
        if "status code: 409" in text and "BlobAlreadyExists" not in text:
            return StorageError(
                f"{doing} {name} failed: another write of it is under way", fix="look, then retry"
            )
        return AlreadyExistsError(f"{name} exists already")
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return NotFoundError(
            f"{doing} {name} failed: the bucket does not exist", fix="create it, or mend the URI"
        )
    if isinstance(error, FileNotFoundError):
        return MissingObjectError(f"there is no object {name}")
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)):
        detail = clean(text, secrets)
        return StorageError(f"{doing} {name} failed: permission denied ({detail})", fix=_CREDENTIALS_FIX)
    if isinstance(error, (NotSupportedError, NotImplementedError)):
        return UnsupportedError(f"{doing} {name} failed: this store cannot do it ({clean(text, secrets)})")
    for mark, what, fix in _HINTS:
        if mark in text:
            return StorageError(f"{doing} {name} failed: {what} ({clean(text, secrets)})", fix=fix)
    return StorageError(f"{doing} {name} failed: {clean(text, secrets)}")


def is_refusal(error: BaseException) -> bool:
    """Whether an error of one request, sent once, says for certain that it took no effect."""
    return isinstance(error, (PermissionDeniedError, UnauthenticatedError, PermissionError)) or any(
        mark in str(error) for mark in _REFUSED
    )


def clean(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return the telling part of a client message: no query strings, user parts, secrets, dumps or XML."""
    code = _XML_CODE.search(text)
    text = _XML.sub("", _DEBUG.sub("", text))
    if code is not None:
        text += f" ({': '.join(part for part in code.groups() if part)})"
    text = _USER.sub(r"\1", _QUERY.sub(r"\1", text))
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
