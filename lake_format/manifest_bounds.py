"""What a version says of a stored manifest as a whole, so that a plan need not load those that cannot matter.

Row ids and some fields' bounds, over all fragments of a manifest (spec/tables.md, TAB-8). Pure; no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake_format.model import ManifestReference
from lake_format.row_ids import U64
from lake_format.schema import ROW_ID_STATISTICS, field_id, walk_fields
from lake_format.statistics import bound_kind, encode_bound

if TYPE_CHECKING:
    from lake_format.manifest import FragmentTable

__all__ = ["FieldBounds", "ManifestBounds", "contradiction", "summarise"]

FieldBounds = tuple[int, bytes, bytes]
"""A field id, and what all its values in a manifest's fragments lie between."""

SUMMARISED = 256
"""Smaller manifests are loaded without asking."""
_FIELDS = 16


def summarise(fragments: FragmentTable) -> tuple[tuple[int, int] | None, tuple[FieldBounds, ...]]:
    """The smallest and greatest row id of a large manifest, and bounds of some fields; nothing of a small one."""
    if len(fragments) < SUMMARISED:
        return None, ()
    low, high = fragments.row_id_limits()
    bounds: list[FieldBounds] = []
    for identity in fragments.fields_with_statistics():
        if len(bounds) < _FIELDS and (found := _bounds(fragments, identity)) is not None:
            bounds.append(found)
    return (int(low.min()), int(high.max())), tuple(bounds)


def _bounds(fragments: FragmentTable, identity: int) -> FieldBounds | None:
    """What encloses a field in all fragments; None where that is unknown in one of them (STAT-6)."""
    found = fragments.column(identity)
    if found is None:
        return None
    lower, upper, null_count, nan_count = found
    without = pc.add(pc.fill_null(null_count, 0), pc.fill_null(nan_count, 0))
    no_value = pc.equal(without, pa.array(fragments.row_count.astype(np.uint64)))
    known = pc.or_(no_value, pc.and_(pc.is_valid(lower), pc.is_valid(upper)))
    least, greatest = pc.min(lower).as_py(), pc.max(upper).as_py()
    if least is None or greatest is None or not pc.all(known).as_py():
        return None
    return identity, least, greatest


def contradiction(reference: ManifestReference, fragments: FragmentTable) -> str | None:
    """What a version says of a manifest that its fragments deny; None where it is right."""
    if len(fragments) == 0:
        return None
    if reference.row_ids is not None:
        low, high = fragments.row_id_limits()
        if int(low.min()) < reference.row_ids[0] or int(high.max()) > reference.row_ids[1]:
            return f"its row ids do not lie between {reference.row_ids[0]} and {reference.row_ids[1]}"
    for identity, lower, upper in reference.bounds:
        found = fragments.column(identity)
        actual = None if found is None else _bounds(fragments, identity)
        if found is None or (actual is None and (found[0].null_count < len(fragments))):
            return f"nothing is known of field {identity} in some of its fragments"
        if actual is not None and (actual[1] < lower or actual[2] > upper):
            return f"values of field {identity} do not lie within its bounds"
    return None


class ManifestBounds:
    """The manifests of a version as a filter sees fragments: those that cannot hold a passing row need no loading.

    Parameters
    ----------
    references, schemas
        Of the version.
    """

    def __init__(self, references: Sequence[ManifestReference], schemas: Mapping[int, pa.Schema]) -> None:
        self._references = references
        self._schemas = schemas

    @property
    def row_count(self) -> npt.NDArray[np.int64]:
        """At least one row in each; how many does not matter."""
        return np.ones(len(self._references), np.int64)

    def column(self, identity: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array] | None:
        """Bounds of a field in each manifest; no count is known but that every row has a row id."""
        if identity == ROW_ID_STATISTICS:
            pairs = [
                None
                if one.row_ids is None
                else tuple(encode_bound(pa.scalar(end, pa.int64())) for end in one.row_ids)
                for one in self._references
            ]
        elif len(self._kinds.get(identity, ())) != 1:  # bounds of other kinds do not compare (STAT-8)
            return None
        else:
            known = [{field: (low, high) for field, low, high in one.bounds} for one in self._references]
            pairs = [one.get(identity) for one in known]
        lower, upper = (pa.array([pair and pair[end] for pair in pairs], pa.binary()) for end in (0, 1))
        counts = pa.nulls(len(pairs), pa.uint64())
        if identity == ROW_ID_STATISTICS:
            counts = pa.array(np.zeros(len(pairs), np.uint64))
        return lower, upper, counts, counts

    def may_equal(self, identity: int, options: pa.Array) -> None:
        """Nothing beyond bounds is known."""

    def may_hold(self, row_ids: U64) -> npt.NDArray[np.bool_]:
        """Which manifests may have one of these row ids; shape ``(manifests,)``."""
        wanted = np.sort(row_ids)
        found = np.ones(len(self._references), bool)
        for place, reference in enumerate(self._references):
            if reference.row_ids is not None:
                low, high = reference.row_ids
                at = int(np.searchsorted(wanted, np.uint64(low)))
                found[place] = at < len(wanted) and int(wanted[at]) <= high
        return found

    def may_list(self, fragment_ids: U64) -> npt.NDArray[np.bool_]:
        """Which manifests may list one of these fragments; shape ``(manifests,)``."""
        wanted = np.sort(fragment_ids)
        low = np.array([one.first_fragment_id for one in self._references], np.uint64)
        high = np.array([one.last_fragment_id for one in self._references], np.uint64)
        first = np.searchsorted(wanted, low)
        return np.asarray(np.searchsorted(wanted, high, side="right") > first)

    @cached_property
    def _kinds(self) -> dict[int, set[str | None]]:
        """What each field was or is, in any of the version's schemas."""
        kinds: dict[int, set[str | None]] = {}
        for schema in self._schemas.values():
            for field in walk_fields(schema):
                kinds.setdefault(field_id(field), set()).add(bound_kind(field.type))
        return kinds
