"""A snapshot: one version of a table, ready to be planned against.

Holds what a version says and what follows from it — live fragments, where a row id lives — and loads each part
when first asked. It reads manifests but never data files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.field_history import FieldHistory
from lake_format.manifest import FragmentTable
from lake_format.manifest_bounds import ManifestBounds
from lake_format.manifest_set import ManifestSet
from lake_format.model import Version
from lake_format.partition_values import PartitionValues
from lake_format.row_locations import RowLocations
from lake_format.schema import without_field_ids
from lake_format.store.base import Store
from lake_format.store.table_store import TableStore

_LARGE = 1024
"""Of fewer fragments all manifests are loaded at once."""
_NARROWINGS = 16
__all__ = ["Snapshot"]


class Snapshot:
    """One version of a table in one store.

    Attributes
    ----------
    store, version
        The table's root and the version's values.
    """

    def __init__(self, store: Store, version: Version, manifests: ManifestSet) -> None:
        self.store = store
        if version.roots and isinstance(store, TableStore):
            store.learn(version.roots)
        self.version = version
        self.manifests = manifests
        self._narrowings = 0

    def viewed(self, fragments: FragmentTable, schema: pa.Schema) -> Snapshot:
        """Some fragments of this version, read as another version's schema; columns are matched by field id.

        Costs nothing that grows with the table: rows are looked for in these fragments alone.
        """
        own = self.version
        other = max(own.schemas) + 1
        version = replace(own, schema_id=other, schemas={**own.schemas, other: schema})
        view = Snapshot(self.store, version, self.manifests)
        fragments.history = FieldHistory(version.schemas, other)
        view.fragments = fragments
        return view

    def restricted(self, fragment_ids: Iterable[int]) -> Snapshot:
        """Some fragments of this version; costs nothing that grows with the rest of the table."""
        wanted = np.fromiter(fragment_ids, np.uint64)
        held = [
            bool(((wanted >= one.first_fragment_id) & (wanted <= one.last_fragment_id)).any())
            for one in self.version.manifests
        ]
        chosen = tuple(one for one, taken in zip(self.version.manifests, held, strict=True) if taken)
        whole = Snapshot(self.store, replace(self.version, manifests=chosen), self.manifests).fragments
        rows = np.isin(whole.integers("fragment_id"), wanted)
        part = Snapshot(self.store, self.version, self.manifests)
        part.fragments = FragmentTable([whole.table.filter(pa.array(rows))])
        part.fragments.history = whole.history
        return part

    @property
    def schema(self) -> pa.Schema:
        """The version's schema, field ids in the metadata."""
        return self.version.schema

    @cached_property
    def user_schema(self) -> pa.Schema:
        """The version's schema as users see it: without field ids."""
        return without_field_ids(self.version.schema)

    @cached_property
    def fragments(self) -> FragmentTable:
        """All live fragments; the first use loads manifests, in one round."""
        table = self.manifests.load(self.version.manifests)
        table.history = FieldHistory(self.version.schemas, self.version.schema_id)
        if self.version.partition_specs:
            table.partitions = PartitionValues(table.table, self.version.partition_specs, self.schema)
        return table

    @cached_property
    def manifest_bounds(self) -> ManifestBounds:
        """What the version says of its manifests without loading them."""
        return ManifestBounds(self.version.manifests, self.version.schemas)

    def narrowed(self, wanted: npt.NDArray[np.bool_]) -> Snapshot:
        """Narrow the version down to the fragments of some of its manifests, or give itself where that costs no more.

        Whoever looks again and again gets all of it: then every manifest has been loaded before long.

        Parameters
        ----------
        wanted
            Which manifests; shape ``(manifests,)``.
        """
        references = self.version.manifests
        chosen = tuple(one for one, taken in zip(references, wanted.tolist(), strict=True) if taken)
        total, left = (sum(one.fragment_count for one in some) for some in (references, chosen))
        if (
            "fragments" in self.__dict__
            or total < _LARGE
            or 2 * left > total
            or self._narrowings >= _NARROWINGS
        ):
            return self
        self._narrowings += 1
        return Snapshot(self.store, replace(self.version, manifests=chosen), self.manifests)

    @cached_property
    def locations(self) -> RowLocations:
        """Where each row id lives."""
        return RowLocations(self.fragments)
