"""Numbers for external roots: the same place gets the same number from every writer (spec/tables.md, TAB-11).

So two commits that bring the same place, or two that bring different ones, follow each other without renumbering
what their files are called in manifests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from lake_format.store.places import Place

__all__ = ["numbered_root"]

_NUMBERS = 1 << 32


def numbered_root(uri: str, taken: Mapping[int, str]) -> tuple[int, str]:
    """The number and the stored spelling of an external root.

    Parameters
    ----------
    uri
        A place outside the table, as a user writes it.
    taken
        The roots the version has: one of the same place keeps its number.
    """
    stored = Place.of(uri).uri
    number = int.from_bytes(hashlib.sha256(stored.encode()).digest()[:4], "big")
    while number == 0 or taken.get(number, stored) != stored:
        number = (number + 1) % _NUMBERS
    return number, stored
