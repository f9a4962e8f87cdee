"""Where a URI points, as a value that compares: whether one place lies inside another is decided here only.

Text alone is looked at. Two spellings of one place (``s3a://b/t`` and ``s3://b/t``, a relative and an absolute
path) give equal places; links on a disk are for the store to find out.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final, Self

from lake_format.errors import CorruptionError, InvalidInputError

__all__ = ["Place"]

_SCHEMES: Final = {
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "abfss",
    "abfss": "abfss",
    "http": "http",
    "https": "https",
}
_LONGEST: Final = 1_024
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(?:/(.*))?", re.DOTALL)
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f\\]")
_AUTHORITY: Final = re.compile(r"[A-Za-z0-9$][A-Za-z0-9$._-]*(?::[0-9]+)?")
_AUTHORITIES: Final = {
    "file": re.compile(""),
    "abfss": re.compile(r"[a-z0-9$-]+@[a-z0-9]+\.(?:dfs|blob)\.core\.windows\.net"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in some storage.

    Attributes
    ----------
    scheme
        One of ``file, memory, s3, gs, az, abfss, http, https``.
    authority
        Bucket, container or host; empty on a local disk.
    parts
        The folders below it.
    """

    scheme: str
    authority: str
    parts: tuple[str, ...]

    @classmethod
    def of(cls, uri: str | os.PathLike[str]) -> Self:
        """Where a URI or a local path that a user gave points; InvalidInputError where it is malformed."""
        text = os.fspath(uri)
        match = _URI.fullmatch(text) if isinstance(text, str) else None
        if not isinstance(text, str) or not text or "\x00" in text:
            raise InvalidInputError(
                f"{uri!r} is no URI", fix="give a path, or a URI such as s3://bucket/table"
            )
        if match is None:
            return cls("file", "", _folders(os.path.abspath(os.path.expanduser(text))))
        scheme = _SCHEMES.get(match[1].lower())
        if scheme == "file":
            local = os.path.abspath("/" + urllib.parse.unquote(match[3] or ""))
            return cls("file", "" if match[2] == "localhost" else match[2], _folders(local))._checked()
        return cls(scheme or match[1].lower(), match[2], _folders(match[3] or ""))._checked()

    @classmethod
    def stored(cls, uri: str) -> Self:
        """Where a URI of a table's metadata points; CorruptionError for one that is not in its only spelling."""
        try:
            place = cls.of(uri)
        except InvalidInputError as error:
            raise CorruptionError(f"an external root is malformed: {error.what}") from error
        if place.uri != uri or len(uri) > _LONGEST:
            raise CorruptionError(f"the external root {uri[:200]!r} is not written as {place.uri[:200]!r}")
        return place

    @property
    def uri(self) -> str:
        """The place in its only spelling (spec/storage.md, STO-27)."""
        folders = "/".join(self.parts)
        if self.scheme == "file":
            return "file:///" + urllib.parse.quote(folders)
        return f"{self.scheme}://{self.authority}" + (f"/{folders}" if folders else "")

    @property
    def address(self) -> str:
        """What :func:`lake_format.store.open_store` takes for this place: on a local disk, its path."""
        return "/" + "/".join(self.parts) if self.scheme == "file" else self.uri

    @property
    def folder(self) -> Place:
        """The place that holds this one; a bucket or the root of a disk holds itself."""
        return Place(self.scheme, self.authority, self.parts[:-1])

    def covers(self, other: Place) -> bool:
        """Whether ``other`` is this place or lies inside it."""
        same = (self.scheme, self.authority) == (other.scheme, other.authority)
        return same and other.parts[: len(self.parts)] == self.parts

    def _checked(self) -> Self:
        if self.scheme not in _SCHEMES.values():
            raise InvalidInputError(f"unknown URI scheme {self.scheme!r}")
        if "@" in self.authority and self.scheme != "abfss":  # not shown: it may be a password
            raise InvalidInputError(f"a {self.scheme} URI must not hold credentials")
        pattern = _AUTHORITIES.get(self.scheme, _AUTHORITY)
        if pattern.fullmatch(self.authority) is None:
            raise InvalidInputError(f"a {self.scheme} URI has the bucket or host {self.authority!r}")
        if any(part in (".", "..") or _FORBIDDEN.search(part) for part in self.parts):
            raise InvalidInputError(f"a {self.scheme} URI has a part '.' or '..', or a control character")
        if self.scheme != "file" and any(mark in part for part in self.parts for mark in "?#"):
            raise InvalidInputError(f"a {self.scheme} URI must not hold a query")
        return self


def _folders(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)
