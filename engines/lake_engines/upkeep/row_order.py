"""Which order the rows of a rewrite are brought into: by columns, or as the lists of a vector index lie.

The order by index: lists along a tour from each to its nearest neighbour, rows of a list together. Rows that a search
fetches then lie close together. Rows that the index does not hold come last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.files.base import gather
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.ordering.keys import CurveKeys, RankKeys, RowKeys, keys_for
from lake_format.clustering import Clustering
from lake_format.compaction import RewriteRequest
from lake_format.errors import NotFoundError
from lake_format.model import Fragment, IndexShard
from lake_format.row_ids import U64
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot

__all__ = ["nearest_neighbour_tour", "row_keys"]

_SAMPLE_ROWS = 1 << 17
_WINDOW_ROWS = 65_536
_LISTS_AT_ONCE = 64


def row_keys(snapshot: Snapshot, request: RewriteRequest, row_ids: U64, pool: ReaderPool) -> RowKeys | None:
    """What the rows of a rewrite are sorted by; None where they keep their order.

    Parameters
    ----------
    row_ids
        Of the rows as they are read.
    """
    if request.clustering is None:
        return None
    if request.clustering.method == "vector":
        return RankKeys(_index_ranks(snapshot, request.clustering, row_ids))
    keys = keys_for(request.clustering, snapshot.schema)
    if isinstance(keys, CurveKeys):  # quantiles of all the rows, not of those that come first
        keys.fit(_sample(snapshot, request.clustering, request.fragments, pool))
    return keys


def _sample(
    snapshot: Snapshot, clustering: Clustering, fragments: Sequence[Fragment], pool: ReaderPool
) -> list[pa.RecordBatch]:
    """Every so many rows' values of the columns."""
    columns = [field_by_id(snapshot.schema, one) for one in clustering.field_ids]
    names = [column.name for column in columns if column is not None]
    step = max(1, sum(fragment.row_count for fragment in fragments) // _SAMPLE_ROWS)
    found = []
    for fragment in fragments:
        reader = FragmentReader(snapshot, fragment, pool)
        for _, batch in reader.scan(names, 0, fragment.row_count, _WINDOW_ROWS):
            found.append(gather(batch, np.arange(0, batch.num_rows, step)))
    return found


def _index_ranks(snapshot: Snapshot, clustering: Clustering, row_ids: U64) -> U64:
    """For each row the place of its list along the tour through the index."""
    entry = next((one for one in snapshot.version.indexes if one.index_id == clustering.index_id), None)
    if entry is None:
        raise NotFoundError("the index to cluster by was dropped or replaced meanwhile", fix="cluster again")
    ranks = np.full(len(row_ids), np.iinfo(np.uint64).max, np.uint64)
    order = np.argsort(row_ids, kind="stable")
    for shard in entry.shards:
        _rank_shard(snapshot, shard, row_ids[order], order, ranks)
    return ranks


def _rank_shard(
    snapshot: Snapshot, shard: IndexShard, ascending: U64, order: npt.NDArray[np.int64], ranks: U64
) -> None:
    """Fill in the ranks of the rows that a shard holds."""
    from lake_engines.index import IndexReader  # noqa: PLC0415 - loads faiss

    reader = IndexReader.open(
        snapshot.store,
        shard.path,
        size=shard.size,
        head_length=shard.head_length,
        head_crc=shard.head_crc,
        cache_bytes=0,
    )
    covered = shard.decoded_row_ids()
    model = reader.model
    if model is None:  # too small for lists
        tour = np.zeros(1, np.int64)
        lists = iter([(0, np.arange(reader.count))])
    else:
        tour = nearest_neighbour_tour(model.centroids)
        lists = reader.lists(_LISTS_AT_ONCE)
    rank_of_list = np.empty(len(tour), np.uint64)
    rank_of_list[tour] = np.arange(len(tour), dtype=np.uint64)
    for number, ordinals in lists:
        ids = covered[ordinals]
        at = np.searchsorted(ascending, ids)
        found = at < len(ascending)
        found[found] = ascending[at[found]] == ids[found]
        ranks[order[at[found]]] = rank_of_list[number]


def nearest_neighbour_tour(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """A path through all points, from each to the nearest that was not visited; starts at the first."""
    points = np.asarray(points, np.float32)
    norms = np.einsum("ij,ij->i", points, points)
    tour = np.zeros(len(points), np.int64)
    waiting = np.ones(len(points), bool)
    waiting[0] = False
    for step in range(1, len(points)):
        distances = norms - 2 * (points @ points[tour[step - 1]])
        distances[~waiting] = np.inf
        tour[step] = int(distances.argmin())
        waiting[tour[step]] = False
    return tour
