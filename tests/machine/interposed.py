"""A store that lets somebody in between: right before a writer claims its next version, others may commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lake_format.paths import VERSIONS
from lake_format.store import Store


class InterposedStore:
    """``inner``, but the next claim of a version waits for :attr:`meanwhile`, once."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.meanwhile: Callable[[], None] | None = None
        self.failure: Exception | None = None

    def create(self, path: str, data: bytes) -> None:
        if path.startswith(VERSIONS) and self.meanwhile is not None:
            act, self.meanwhile = self.meanwhile, None
            try:
                act()
            except Exception as error:  # noqa: BLE001 - kept from whoever commits, raised by the world
                self.failure = error
        self._inner.create(path, data)

    def raise_failure(self) -> None:
        """What went wrong with those in between."""
        if self.failure is not None:
            raise self.failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
