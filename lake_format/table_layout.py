"""The layout side of a table: how rows are parted into fragments, and the order they lie in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from lake_format.changes import SetProperties
from lake_format.clustering import CLUSTERING_PROPERTY, Clustering, check_clustering, clustering_of
from lake_format.compaction import (
    CompactionReport,
    CompactionTarget,
    choose_unclustered,
)
from lake_format.engine import Progress
from lake_format.errors import InvalidInputError, NotFoundError
from lake_format.operation_record import OperationRecord
from lake_format.partition_changes import SetPartitioning
from lake_format.partitioning import PartitionSpec, parse_partitioning
from lake_format.properties import integer_property
from lake_format.schema import field_by_id
from lake_format.table_compaction import Group, positive
from lake_format.table_upkeep import TableUpkeep

__all__ = ["TableLayout"]

_GROUP = 8
"""A group of fragments that is clustered together has the size of so many full ones."""


class TableLayout(TableUpkeep):
    """Where rows lie: partitions for whole fragments to be left out, an order for neighbours to lie together."""

    @property
    def partitioning(self) -> list[str]:
        """How rows are parted when they are written, such as ``["day(ts)", "bucket(16, id)"]``; empty if not."""
        spec = self._snapshot.version.partitioning
        return [] if spec is None else spec.shown(self._snapshot.schema)

    @property
    def clustering(self) -> tuple[str, list[str]] | None:
        """The method and the columns by which rows are put in order when they are written; None if they are not."""
        version = self._snapshot.version
        found = clustering_of(version.properties, version.schema)
        if found is None:
            return None
        columns = [field_by_id(version.schema, one) for one in found.field_ids]
        return found.method, [column.name for column in columns if column is not None]

    def set_partitioning(self, partition_by: str | Iterable[str]) -> Self:
        """Part rows that are written from now on by other fields; what is there stays as it is.

        Filters go on naming the columns themselves: fragments that cannot hold matching rows are left out by
        their partition, whichever fields they were written by.

        Parameters
        ----------
        partition_by
            Column names, or ``year(c)``, ``month(c)``, ``day(c)``, ``hour(c)``, ``bucket(n, c)`` and
            ``truncate(w, c)``, as Apache Iceberg defines them. None at all (``[]``) ends partitioning.

        Raises
        ------
        InvalidInputError
            An unknown column or transform, or a type that cannot be transformed so.
        ConflictError
            Somebody changed the partitioning, or took a column away, at the same time.
        """
        self._require_writable()
        fields = parse_partitioning(self.refresh().snapshot.schema, partition_by)
        shown = PartitionSpec(spec_id=0, fields=fields).shown(self._snapshot.schema)
        self._commit(SetPartitioning(fields=fields, summary={"partitioning": ", ".join(shown) or "none"}))
        return self

    def set_clustering(self, cluster_by: str | Iterable[str] | None, *, method: str | None = None) -> Self:
        """Put rows in order when they are written from now on, and when fragments are compacted.

        Parameters
        ----------
        cluster_by
            Columns; None ends clustering. :meth:`cluster` brings rows into order that are there already.
        method
            ``hilbert`` (the default for several columns) or ``zorder``: rows that are near each other in all
            columns lie together. ``linear`` (the default for one): by the first column, then by the next.

        Raises
        ------
        InvalidInputError
            An unknown column or method, or a column without order.
        """
        self._require_writable()
        schema = self.refresh().snapshot.schema
        wanted = None if cluster_by is None else check_clustering(schema, cluster_by, method)
        record = OperationRecord(kind="set_properties", claims=frozenset({f"property:{CLUSTERING_PROPERTY}"}))
        text = None if wanted is None else str(wanted)
        summary = {"clustering": text or "none"}
        self._commit(SetProperties(record=record, summary=summary, values={CLUSTERING_PROPERTY: text}))
        return self

    def cluster(
        self,
        columns: str | Iterable[str] | None = None,
        *,
        vector: str | None = None,
        method: str | None = None,
        group_rows: int | None = None,
        everything: bool = False,
        progress: Progress | None = None,
    ) -> CompactionReport:
        """Bring rows into an order in which those that are read together lie together.

        Row ids stay, so indexes need nothing and answer as before. Fragments that are in this order already are
        left alone, so that a second call has nothing to do. Groups of fragments are sorted one after the other,
        each a commit of its own: what is done stays done. Memory is bounded; a group is sorted on local disk. A
        group that users changed meanwhile is left alone and counted as ``yielded``.

        Parameters
        ----------
        columns, method
            As for :meth:`set_clustering`; None is the order that the table was given there.
        vector
            A vector column with an index: rows lie as the lists of its index do, so that a search reads few and
            short stretches of the files.
        group_rows
            Rows sorted together, at most; by default eight full fragments of the table.
        everything
            Fragments that are in this order already are sorted again with the others.
        progress
            Called with ``("cluster", rows done, rows in all)``.

        Raises
        ------
        InvalidInputError
            An unknown column or method, a column without order; nothing to order by.
        NotFoundError
            No index over the vector column.
        """
        self._require_alone("cluster")
        self._require_writable()
        self.refresh()
        clustering = self._wanted_order(columns, vector, method)
        groups = self._out_of_order(None if everything else str(clustering), group_rows)
        return self._rewrite(groups, "cluster", clustering=clustering, progress=progress)

    def _out_of_order(self, order: str | None, group_rows: int | None = None) -> list[Group]:
        """Fragments to be sorted together: those that are not in an order, and small ones beside them; None: all."""
        properties, fragments = self.properties, self._snapshot.fragments
        rows = integer_property(properties, "write.fragment-rows")
        size = integer_property(properties, "write.fragment-bytes")
        most = positive("group_rows", group_rows, rows * _GROUP)
        groups = choose_unclustered(
            fragments,
            order,
            full=CompactionTarget(rows=rows, bytes=size, deleted_share=1.0),
            group=CompactionTarget(rows=most, bytes=size * _GROUP, deleted_share=1.0),
        )
        return [tuple(fragments.fragment(index) for index in group) for group in groups]

    def _wanted_order(self, columns: object, vector: str | None, method: str | None) -> Clustering:
        version = self._snapshot.version
        if vector is not None:
            if columns is not None or method is not None:
                raise InvalidInputError("rows are clustered by columns or by a vector, not by both")
            return self._index_order(vector)
        if columns is not None:
            return check_clustering(version.schema, columns, method)
        known = clustering_of(version.properties, version.schema)
        if known is None:
            raise InvalidInputError(
                "the table has no clustering of its own", fix="name columns, or a vector column with vector="
            )
        return known

    def _index_order(self, vector: str) -> Clustering:
        version = self._snapshot.version
        for entry in version.indexes:
            field = field_by_id(version.schema, entry.field_id)
            if field is not None and vector in (field.name, entry.name):
                return Clustering(method="vector", field_ids=(entry.field_id,), index_id=entry.index_id)
        raise NotFoundError(f"no index over a column {vector!r}", fix="create_index() first")
