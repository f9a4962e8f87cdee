"""A version in the making: what changes may do to the newest version before it is claimed.

Every method keeps the version whole: row counts, counters, features and index staleness follow from what is done
here, so that no operation has to remember them. Nothing is visible until the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyroaring import BitMap64

from lake_format.errors import ConflictError
from lake_format.key_index import KEY_INDEX_FEATURE, KeyIndex
from lake_format.keys import key_field_ids
from lake_format.lines import BRANCH_FEATURE, BranchEntry, require_room
from lake_format.manifest_set import ManifestSet, Spilled
from lake_format.model import EXTERNAL_FEATURE, Fragment, IndexEntry, NewFragment, Version
from lake_format.partitioning import FEATURE as PARTITIONS
from lake_format.partitioning import PartitionField, PartitionSpec
from lake_format.positions import bitmap_of
from lake_format.row_ids import U64, encode_row_ids
from lake_format.snapshot import Snapshot

__all__ = ["Draft", "staler"]

_DRAFTS = count()


class Draft:
    """The next version while changes are applied to it; starts as a copy of its parent.

    Attributes
    ----------
    version
        The version so far; its number and stamps are still the parent's. Fragments added to it are in none of its
        manifests until somebody looks at them or it is settled: then they are encoded, all at once.
    """

    def __init__(self, parent: Version, manifests: ManifestSet) -> None:
        self.version = parent
        self._parent = parent
        self._manifests = manifests
        self._snapshot: Snapshot | None = None
        self._added: list[Fragment] = []

    @property
    def snapshot(self) -> Snapshot:
        """The draft as a snapshot: where rows live with everything done so far."""
        if self._snapshot is None:
            self._list_added()
            version = self.version
            if version is not self._parent:  # whoever keeps something about a snapshot goes by its commit id
                version = replace(version, commit_id=f"{version.commit_id}/{next(_DRAFTS)}")
            self._snapshot = Snapshot(self._manifests.store, version, self._manifests)
        return self._snapshot

    def add_fragments(self, fragments: Iterable[NewFragment], features: Iterable[str] = ()) -> None:
        """Give new fragments their ids and their rows the next row ids."""
        row_id = self.version.next_row_id
        added = []
        for offset, new in enumerate(fragments):
            fragment_id = self.version.next_fragment_id + offset
            added.append(new.placed(fragment_id, first_row_id=row_id))
            row_id += new.row_count
        self._put(added, features, next_row_id=row_id)

    def add_moved(
        self,
        fragments: Iterable[tuple[NewFragment, bytes]],
        features: Iterable[str] = (),
        *,
        new_rows: int = 0,
    ) -> None:
        """Add fragments of rows that keep their row ids, given as row-id sequences.

        Parameters
        ----------
        new_rows
            How many of the ids in the sequences, counted on from the next row id, are given out with them.
        """
        first = self.version.next_fragment_id
        added = [
            new.placed(first + offset, row_id_sequence=sequence)
            for offset, (new, sequence) in enumerate(fragments)
        ]
        needed = {*features, "row-id-sequences"} if added else features
        self._put(added, needed, next_row_id=self.version.next_row_id + new_rows)

    def add_compacted(
        self, new: NewFragment, row_ids: U64, dead: npt.NDArray[np.int64], features: Iterable[str] = ()
    ) -> None:
        """Add a fragment of rows that keep their ids, some positions of it deleted (fewer than all)."""
        at = self.version.next_fragment_id
        first, needed = int(row_ids[0]), set(features)
        if (row_ids == np.arange(first, first + len(row_ids), dtype=np.uint64)).all():
            placed = new.placed(at, first_row_id=first)
        else:
            placed = new.placed(at, row_id_sequence=encode_row_ids(row_ids))
            needed.add("row-id-sequences")
        if len(dead):
            bitmap = BitMap64(dead.tolist())
            bitmap.run_optimize()
            placed = replace(placed, deleted_count=len(dead), deletions=bitmap.serialize())
        self._put([placed], needed)

    def list_fragments(self, fragments: Iterable[Fragment], features: Iterable[str] = ()) -> None:
        """Take over fragments of another line under the ids, and with the row ids, that they have there."""
        self._put(list(fragments), features, new_ids=False)

    def replace_fragments(self, entries: Mapping[int, Fragment | None]) -> None:
        """Put new entries in place of fragments, by fragment id; None removes the fragment."""
        if not entries:
            return
        self._list_added()
        references, gone = self._manifests.without(self.version.manifests, entries.keys())
        kept = [entry for entry in entries.values() if entry is not None]
        rows = sum(f.row_count - f.deleted_count for f in kept)
        features = {"deletion-bitmaps"} if any(f.deletions is not None for f in kept) else set()
        self._added += kept
        self._change(
            manifests=references,
            row_count=self.version.row_count + rows - gone,
            required_features=self.version.required_features | features,
        )

    def count_rows(self) -> None:
        """Count the live rows anew, where the count was wrong."""
        table = self.snapshot.fragments
        live = table.integers("row_count").astype(np.int64) - table.integers("deleted_count").astype(np.int64)
        self._change(row_count=int(live.sum()))

    def mark_stale(self, field_ids: Iterable[int], row_ids: U64) -> None:
        """Take rows with new values of these fields out of the indexes over them; they are searched flat."""
        wanted = set(field_ids)
        keys = self.version.key_index
        if len(row_ids) and keys is not None and not wanted.isdisjoint(keys.field_ids):
            self._change(key_index=keys.with_stale(row_ids))
        if len(row_ids) == 0 or not any(entry.field_id in wanted for entry in self.version.indexes):
            return
        changed = bitmap_of(np.unique(row_ids))
        self._change(
            indexes=tuple(
                staler(entry, changed) if entry.field_id in wanted else entry
                for entry in self.version.indexes
            )
        )

    def set_key_index(self, index: KeyIndex | None) -> None:
        """Put a key index in place of the one there is."""
        features = {KEY_INDEX_FEATURE} if index is not None else set()
        self._change(key_index=index, required_features=self.version.required_features | features)

    def put_index(self, entry: IndexEntry) -> None:
        """Add an index, in place of the one of the same name."""
        kept = [index for index in self.version.indexes if index.name != entry.name]
        features = self.version.required_features | {"vector-index"}
        self._change(indexes=(*kept, entry), required_features=features)

    def replace_index(self, entry: IndexEntry) -> None:
        """Put an index in the place of the one with its id; the order of indexes stays."""
        self._change(
            indexes=tuple(
                entry if index.index_id == entry.index_id else index for index in self.version.indexes
            )
        )

    def remove_indexes(self, names: Iterable[str]) -> None:
        """Drop indexes by name."""
        gone = set(names)
        self._change(indexes=tuple(entry for entry in self.version.indexes if entry.name not in gone))

    def set_schema(self, schema: pa.Schema, next_field_id: int | None = None) -> None:
        """Make a schema current; the earlier ones stay, as files were written with them."""
        schema_id = max(self.version.schemas) + 1
        self._change(
            schema_id=schema_id,
            schemas={**self.version.schemas, schema_id: schema},
            next_field_id=self.version.next_field_id if next_field_id is None else next_field_id,
        )

    def take_field_ids(self, following: int) -> None:
        """Count the field ids below a number as given out."""
        self._change(next_field_id=max(self.version.next_field_id, following))

    def know_schema(self, schema: pa.Schema) -> int:
        """The id of a schema that files were written with; one that the version does not have yet gets the next."""
        for number, known in self.version.schemas.items():
            if known.equals(schema, check_metadata=True):
                return number
        number = max(self.version.schemas) + 1
        self._change(schemas={**self.version.schemas, number: schema})
        return number

    def know_partition_specs(self, specs: Mapping[int, PartitionSpec]) -> None:
        """Name further ways in which fragments are parted; ConflictError where a number means another by now.

        How rows are parted from now on stays what it is.
        """
        self._add_partition_specs(specs)
        self._keep_partition_specs()

    def _keep_partition_specs(self) -> None:
        """A table that has specs has a current one: that of no fields, where it is not partitioned (PAR-1)."""
        if self.version.partition_spec_id is None and self.version.partition_specs:
            self.set_partitioning(())

    def _add_partition_specs(self, specs: Mapping[int, PartitionSpec]) -> None:
        known = self.version.partition_specs
        if any(known.get(number, spec) != spec for number, spec in specs.items()):
            raise ConflictError(
                "the table was partitioned another way since the two lines parted",
                fix="set the same partitioning on both, in the same order, or append the rows instead",
            )
        self._change(partition_specs={**known, **specs})

    def require_features(self, features: Iterable[str]) -> None:
        """Name features that a reader of the version must know."""
        self._change(required_features=self.version.required_features | frozenset(features))

    def set_properties(self, properties: Mapping[str, str]) -> None:
        """Replace the table's properties."""
        self._change(properties=dict(properties))

    def set_partitioning(self, fields: tuple[PartitionField, ...]) -> None:
        """Part rows written from now on by these fields; a spec that the table had before is taken up again."""
        known = self.version.partition_specs
        same = [spec for spec in known.values() if spec.fields == fields]
        spec = same[0] if same else PartitionSpec(spec_id=max(known, default=-1) + 1, fields=fields)
        self._change(
            partition_specs={**known, spec.spec_id: spec},
            partition_spec_id=spec.spec_id,
            required_features=self.version.required_features | {PARTITIONS},
        )

    def set_reference(self, name: str, number: int | None) -> None:
        """Let a tag name a version; None removes the tag."""
        others = {known: at for known, at in self.version.refs.items() if known != name}
        self._change(refs=others if number is None else {**others, name: number})

    def set_branch(self, name: str, entry: BranchEntry | None) -> None:
        """Let main list a branch under a name; None removes it from the list."""
        others = {known: one for known, one in self.version.branches.items() if known != name}
        self._change(
            branches=others if entry is None else {**others, name: entry},
            required_features=self.version.required_features | {BRANCH_FEATURE},
        )

    def end_line(self) -> None:
        """Make this the last version of a branch."""
        assert self.version.origin is not None
        self._change(origin=replace(self.version.origin, dropped=True))

    def raise_horizon(self, horizon: int) -> None:
        """Let the versions before ``horizon`` expire, as far as no tag names them."""
        self._change(
            horizon=max(self.version.horizon, horizon),
            required_features=self.version.required_features | {"expired-versions"},
        )

    def restore(self, old: Version) -> None:
        """Make the schema, rows and indexes of an older version current; no counter goes back (IDN-2)."""
        self._add_partition_specs(old.partition_specs)
        self._added = []
        index, key = old.key_index, key_field_ids(self.version.properties)
        self._change(
            schema_id=old.schema_id,
            schemas={**old.schemas, **self.version.schemas},
            manifests=old.manifests,
            indexes=old.indexes,
            key_index=index if index is not None and index.field_ids == key else None,
            row_count=old.row_count,
            partition_spec_id=old.partition_spec_id,
            required_features=self.version.required_features | old.required_features,
            roots={**old.roots, **self.version.roots},
        )
        self._keep_partition_specs()  # no spec id is given twice, so those there were are kept

    def mark_merged(self, line: int, taken: Version) -> None:
        """Note which version of a line was taken over, and give out no field id it knows."""
        self._change(
            merges={**self.version.merges, line: taken.version},
        )
        self.take_field_ids(taken.next_field_id)

    def add_roots(self, roots: Mapping[int, str]) -> None:
        """Name external roots; ConflictError where a number means another place by now."""
        if not roots:
            return
        if any(self.version.roots.get(number, uri) != uri for number, uri in roots.items()):
            raise ConflictError(
                "an external root got the number of another one meanwhile",
                fix="nothing was written; try again",
            )
        self._change(
            roots={**self.version.roots, **roots},
            required_features=self.version.required_features | {EXTERNAL_FEATURE},
        )

    def settled(self, spilled: Spilled) -> Version:
        """The version with its manifests merged where they are many; ``spilled`` is what earlier attempts wrote."""
        self._list_added()
        return replace(self.version, manifests=self._manifests.settle(self.version.manifests, spilled))

    def _put(
        self,
        added: list[Fragment],
        features: Iterable[str],
        next_row_id: int | None = None,
        *,
        new_ids: bool = True,
    ) -> None:
        base = self.version
        next_fragment_id = base.next_fragment_id + (len(added) if new_ids else 0)
        require_room(base.next_fragment_id, next_fragment_id)
        require_room(base.next_row_id, base.next_row_id if next_row_id is None else next_row_id)
        if any(fragment.deletions is not None for fragment in added):
            features = {*features, "deletion-bitmaps"}
        self._added += added
        self._change(
            next_row_id=base.next_row_id if next_row_id is None else next_row_id,
            next_fragment_id=next_fragment_id,
            row_count=base.row_count + sum(fragment.row_count - fragment.deleted_count for fragment in added),
            required_features=base.required_features | frozenset(features),
        )

    def _list_added(self) -> None:
        if self._added:
            added, self._added = self._added, []
            self._change(manifests=self._manifests.add(self.version.manifests, added))

    def _change(self, **values: object) -> None:
        self.version = replace(self.version, **values)  # type: ignore[arg-type]
        self._snapshot = None


def staler(entry: IndexEntry, changed: BitMap64) -> IndexEntry:
    """The index with more of its rows stale: they got other values than it holds."""
    known = BitMap64() if entry.stale is None else BitMap64.deserialize(entry.stale)
    return replace(entry, stale=(known | changed).serialize())
