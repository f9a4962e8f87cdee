"""The format as values: what a version of a table is made of, with the names the specification uses.

Frozen, without I/O and without encoding: :mod:`lake_format.codec` and :mod:`lake_format.manifest` turn these
into bytes and back (spec/tables.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lake_format.key_index import KeyIndex
from lake_format.lines import BRANCH_FEATURE, BranchEntry, BranchOrigin
from lake_format.partitioning import Partition, PartitionSpec
from lake_format.pins import CloneSource
from lake_format.row_ids import U64, decode_row_ids
from lake_format.statistics import ColumnStatistics

__all__ = [
    "EXTERNAL_FEATURE",
    "FILE_COLUMNS",
    "FORMAT_VERSION",
    "KNOWN_FEATURES",
    "LISTED_FEATURE",
    "ColumnGroup",
    "ColumnPatch",
    "CommitDetails",
    "Fragment",
    "HistoryEntry",
    "IndexEntry",
    "IndexShard",
    "ManifestReference",
    "NewFragment",
    "Version",
]

FORMAT_VERSION = 0
EXTERNAL_FEATURE = "external-files"

LISTED_FEATURE = "listed-vectors"

OPEN_FEATURE = "open-layout"

FILE_COLUMNS = ("groups", "patches")
"""The columns of a manifest that name data files."""

KNOWN_FEATURES = frozenset(
    {
        "vortex-files",
        "vector-pages",
        "row-id-sequences",
        "deletion-bitmaps",
        "vector-index",
        "evolved-types",
        "column-defaults",
        "computed-columns",
        LISTED_FEATURE,
        OPEN_FEATURE,
        "superseded-columns",
        "patch-files",
        "keys",
        "key-index",
        "expired-versions",
        EXTERNAL_FEATURE,
        BRANCH_FEATURE,
        "partitions",
    }
)
"""Features this release can read. A version that requires any other is refused by name (TAB-7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnGroup:
    """One file with some columns of a fragment.

    Attributes
    ----------
    field_ids
        Ids of the file's top-level columns, in file order.
    superseded
        Those of them whose values another group of the fragment has by now (spec/evolution.md, EVO-6).
    schema_id
        The schema the file was written with; it tells nested ids, types and names.
    path, format, size
        Where the file is, ``"parquet"`` or ``"vortex"``, and its length in bytes.
    layout
        What a reader needs to address rows without opening the footer; see spec/files.md.
    """

    field_ids: tuple[int, ...]
    schema_id: int
    path: str
    format: str
    size: int
    layout: bytes
    superseded: frozenset[int] = frozenset()

    @property
    def live_field_ids(self) -> tuple[int, ...]:
        """Ids of the columns that are read from this file."""
        return tuple(one for one in self.field_ids if one not in self.superseded)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPatch:
    """New values of some columns for some rows of a fragment, over those of its groups and of patches before it.

    One file serves many fragments: each patch takes some consecutive rows of it.

    Attributes
    ----------
    file
        The file, as a column group is told.
    file_rows
        How many rows it has.
    first_row, count
        Which of them are this patch's.
    positions
        A portable 64-bit roaring bitmap: the i-th smallest position gets row ``first_row + i``.
    """

    file: ColumnGroup
    file_rows: int
    first_row: int
    count: int
    positions: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFragment:
    """Rows written to files but not committed yet: they have no fragment id and no row ids.

    Only files that others wrote bring deleted positions along.
    """

    row_count: int
    groups: tuple[ColumnGroup, ...]
    statistics: tuple[ColumnStatistics, ...]
    partition: Partition | None = None
    clustering: str | None = None
    deleted_count: int = 0
    deletions: bytes | None = None

    def placed(
        self, fragment_id: int, *, first_row_id: int | None = None, row_id_sequence: bytes | None = None
    ) -> Fragment:
        """The fragment with its id and its row ids: contiguous from the first, or a sequence."""
        return Fragment(
            fragment_id=fragment_id,
            row_count=self.row_count,
            first_row_id=first_row_id,
            row_id_sequence=row_id_sequence,
            deleted_count=self.deleted_count,
            deletions=self.deletions,
            groups=self.groups,
            statistics=self.statistics,
            partition=self.partition,
            clustering=self.clustering,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """A horizontal slice of rows: column groups of equal length, row ids and deleted positions.

    Exactly one of ``first_row_id`` (contiguous ids) and ``row_id_sequence`` (encoded) is set. ``deletions`` is a
    portable 64-bit roaring bitmap of positions, or None when no row is deleted. Of ``patches`` a later one counts
    before an earlier. ``partition`` holds for every row, deleted ones included; None is a fragment of a table that
    was not partitioned then. ``clustering`` tells the order of the rows, where they are in one (spec/partitions.md).
    """

    fragment_id: int
    row_count: int
    first_row_id: int | None
    row_id_sequence: bytes | None = None
    deleted_count: int = 0
    deletions: bytes | None = None
    groups: tuple[ColumnGroup, ...]
    patches: tuple[ColumnPatch, ...] = ()
    statistics: tuple[ColumnStatistics, ...]
    partition: Partition | None = None
    clustering: str | None = None

    def files(self) -> Iterator[ColumnGroup]:
        """Every file its values lie in: those of groups, then those of patches, which other fragments may share."""
        yield from self.groups
        for patch in self.patches:
            yield patch.file

    def holds_what(self, other: Fragment) -> bool:
        """Whether another entry of this fragment has the same values at every position."""
        return self.groups == other.groups and self.patches == other.patches

    def holders(self, identity: int) -> tuple[ColumnGroup | ColumnPatch, ...]:
        """Where the values of a top-level field lie: the group, if one has it, then patches, the latest last."""
        return (
            *(group for group in self.groups if identity in group.live_field_ids),
            *(patch for patch in self.patches if identity in patch.file.live_field_ids),
        )

    def row_ids(self) -> U64:
        """The permanent row id of every position, deleted ones included; shape ``(row_count,)``."""
        if self.row_id_sequence is not None:
            return decode_row_ids(self.row_id_sequence, self.row_count)
        first = self.first_row_id or 0
        return np.arange(first, first + self.row_count, dtype=np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestReference:
    """Where a manifest's bytes are, and which of its fragments a version no longer holds.

    Either ``path`` names an object, or ``path`` is None and the bytes lie in the version object's tail. All
    fragment ids lie between ``first_fragment_id`` and ``last_fragment_id``, so that one is found without
    reading every manifest. Of a large manifest ``row_ids`` tells the smallest and the greatest row id, and ``bounds``
    what all values of some fields lie between (field id, lower, upper).
    """

    path: str | None
    size: int
    crc: int
    fragment_count: int
    row_count: int
    first_fragment_id: int
    last_fragment_id: int
    removed: tuple[int, ...] = ()
    row_ids: tuple[int, int] | None = None
    bounds: tuple[tuple[int, bytes, bytes], ...] = ()
    body: bytes | None = field(default=None, repr=False)
    """The bytes of an inline manifest; None for one in an object of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexShard:
    """One index file and the rows it covers.

    The shard numbers its rows by the rank of their row id among ``row_ids`` (ascending), so it holds no absolute
    row ids and survives every move of rows between fragments.
    """

    path: str
    size: int
    head_length: int
    head_crc: int
    row_count: int
    row_ids: bytes

    def decoded_row_ids(self) -> U64:
        """The covered row ids, ascending; shape ``(row_count,)``."""
        return decode_row_ids(self.row_ids, self.row_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """An index of a version: what it indexes, how, which rows it covers, and which of them went stale."""

    index_id: str
    name: str
    kind: str
    field_id: int
    metric: str
    parameters: Mapping[str, Any]
    shards: tuple[IndexShard, ...]
    stale: bytes | None = None
    """Row ids (64-bit roaring) whose indexed value changed since; they are searched flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitDetails:
    """What a listing of the history tells of a version besides its number and time."""

    kinds: tuple[str, ...]
    """The kinds of its operations."""
    row_count: int
    commit_id: str
    writer_id: str
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """A version as later versions and history checkpoints remember it (spec/identity.md, IDN-21)."""

    version: int
    committed_at: int
    details: CommitDetails | None
    """None where they would take too many bytes: the version itself has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One committed state of a table: everything a reader needs to find every row of it."""

    table_id: str
    version: int
    parent: int | None
    commit_id: str
    committed_at: int  # microseconds since the epoch, UTC; grows strictly along a table's versions
    writer_id: str
    operations: tuple[Mapping[str, Any], ...]
    """What the commit did, as operation records (spec/identity.md)."""
    summary: Mapping[str, Any]
    """Figures of the commit for people: rows, fragments, bytes."""
    schema_id: int
    schemas: Mapping[int, pa.Schema]
    next_field_id: int
    next_row_id: int
    next_fragment_id: int
    row_count: int
    manifests: tuple[ManifestReference, ...] = ()
    indexes: tuple[IndexEntry, ...] = ()
    key_index: KeyIndex | None = None
    """Where keys are found; None in a table without key, or whose key index was not built yet."""
    properties: Mapping[str, str] = field(default_factory=dict)
    required_features: frozenset[str] = frozenset()
    sequences: Mapping[str, int] = field(default_factory=dict)
    """The highest number each idempotent writer has committed."""
    refs: Mapping[str, int] = field(default_factory=dict)
    """Tags: names of versions that stay readable whatever expires (spec/versions.md)."""
    horizon: int = 0
    """Versions before this one have expired, unless a tag names them; 0 where nothing has (IDN-19)."""
    roots: Mapping[int, str] = field(default_factory=dict)
    """External roots: number to URI of the place that paths ``@<number>/…`` lie in (TAB-11)."""
    history: tuple[HistoryEntry, ...] = ()
    """The versions between the last multiple of 32 and this one, or none of them where that is not known."""
    origin: BranchOrigin | None = None
    """The branch this is a version of; None on main."""
    branches: Mapping[str, BranchEntry] = field(default_factory=dict)
    """On main: the branches there are, by name (spec/branches.md)."""
    merges: Mapping[int, int] = field(default_factory=dict)
    """By line, the newest version of it that was merged into this line."""
    partition_specs: Mapping[int, PartitionSpec] = field(default_factory=dict)
    """Every way the table was ever partitioned, by spec id."""
    partition_spec_id: int | None = None
    """The spec by which rows are written now; None for a table that never was partitioned."""
    cloned_from: tuple[CloneSource, ...] = ()
    """The tables it was cloned from: the nearest first, then those that one was cloned from."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields a newer minor version wrote; kept and written back untouched."""

    @property
    def schema(self) -> pa.Schema:
        """The schema of this version, with field ids in the metadata."""
        return self.schemas[self.schema_id]

    @property
    def line(self) -> int:
        """Whose version this is: 0 for main, else the number of the branch's line."""
        return 0 if self.origin is None else self.origin.line

    @property
    def is_end(self) -> bool:
        """Whether the branch was deleted with this version, after which none follows."""
        return self.origin is not None and self.origin.dropped

    @property
    def partitioning(self) -> PartitionSpec | None:
        """The spec by which rows are written; None where they are not parted."""
        spec = None if self.partition_spec_id is None else self.partition_specs[self.partition_spec_id]
        return spec if spec and spec.fields else None
