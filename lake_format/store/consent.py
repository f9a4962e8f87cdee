"""Which places outside a table's root the user allows it to read; nothing else may be read there.

Metadata is untrusted: a table that came from elsewhere may name ``file:///etc`` or a host of an inner network. So
a root that a table names is opened only inside a prefix that the user gave (spec/storage.md, STO-28).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lake_format.errors import InvalidInputError
from lake_format.store.base import Store
from lake_format.store.opening import open_store
from lake_format.store.places import Place

if TYPE_CHECKING:
    from lake_format.store.options import Value

__all__ = ["AllowExternal", "Consent", "ExternalNotAllowedError"]

AllowExternal: TypeAlias = "str | Sequence[str] | Mapping[str, Mapping[str, Value] | Store | None]"
"""Prefixes a table may read from; as a mapping, each with storage options of its own, or with a store."""


class ExternalNotAllowedError(InvalidInputError):
    """The table refers to files outside its root, in a place that the user did not allow."""

    code = "external_not_allowed"


@dataclass(frozen=True, slots=True)
class _Prefix:
    place: Place
    options: Mapping[str, Value] | None = None
    store: Store | None = None


@dataclass(frozen=True, slots=True)
class Consent:
    """The prefixes that are allowed, and how each is opened."""

    prefixes: tuple[_Prefix, ...] = ()

    @classmethod
    def of(
        cls,
        allowed: AllowExternal | None,
        home: str | None = None,
        storage_options: Mapping[str, Value] | None = None,
    ) -> Consent:
        """What a user allows.

        Parameters
        ----------
        home, storage_options
            The table's own root and its options. They hold for a prefix without options of its own where they mean
            the same account: another bucket behind the same endpoint, another container of the same account.

        Raises
        ------
        InvalidInputError
            A prefix is malformed, or neither options nor a store stand beside it.
        """
        if allowed is None:
            return cls()
        given = {allowed: None} if isinstance(allowed, str) else allowed
        if not isinstance(given, Mapping):
            given = dict.fromkeys(given)
        here = None if home is None else Place.of(home)
        return cls(tuple(_prefix(uri, value, here, storage_options) for uri, value in given.items()))

    def also(self, uri: str, store: Store) -> Consent:
        """The same and one more prefix, read through a store that is open already."""
        return Consent((*self.prefixes, _Prefix(Place.of(uri), store=store)))

    def opened(self, root: Place) -> tuple[Store, str]:
        """The store through which a root is read, and the root's folder in it (``""`` or one that ends in ``/``).

        The store is opened at the allowed prefix, so that its own rules (no links that lead outside) hold for
        the whole way from there.

        Raises
        ------
        ExternalNotAllowedError
            No allowed prefix covers the root.
        """
        covering = [prefix for prefix in self.prefixes if prefix.place.covers(root)]
        if not covering:
            raise ExternalNotAllowedError(
                f"the table refers to files in {root.uri}, outside its own root, which is not allowed",
                fix=f"if you trust the table and that place, open it with allow_external={root.uri!r}",
            )
        nearest = max(covering, key=lambda prefix: len(prefix.place.parts))
        store = nearest.store or open_store(nearest.place.address, nearest.options)
        folder = "/".join(root.parts[len(nearest.place.parts) :])
        return store, f"{folder}/" if folder else ""


def _prefix(
    uri: str, value: object, home: Place | None, storage_options: Mapping[str, Value] | None
) -> _Prefix:
    place = Place.of(uri)
    if isinstance(value, Mapping):
        return _Prefix(place, options=value)
    if value is None:
        return _Prefix(place, options=storage_options if home and _same_account(home, place) else None)
    if isinstance(value, Store):
        return _Prefix(place, store=value)
    raise InvalidInputError(
        f"allow_external maps {uri!r} to {type(value).__name__}",
        fix="give a mapping of storage options, or None",
    )


def _same_account(home: Place, place: Place) -> bool:
    """Whether the options of one mean the same endpoint and the same credentials for the other."""
    if home.scheme != place.scheme:
        return False
    if home.scheme == "abfss":
        return home.authority.partition("@")[2] == place.authority.partition("@")[2]
    return home.scheme in ("s3", "gs", "az")
