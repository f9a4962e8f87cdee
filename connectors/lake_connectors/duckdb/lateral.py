"""knn_vec(): neighbours of every row of a query, for LATERAL joins, searched in batches.

``SELECT q.id, n.* FROM queries q, LATERAL (SELECT unnest(knn_vec(q.vec, 5), recursive := true)) n``

DuckDB hands over up to 2,048 vectors at a time; each lot is one batch search.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from lake_connectors.adapter.types import fitted
from lake_connectors.duckdb.showing import TableFollower
from lake_connectors.duckdb.types import TYPES
from lake_format.engine import SearchRequest
from lake_format.errors import InvalidInputError
from lake_format.queries import check_k, check_queries, vector_column
from lake_format.schema import DISTANCE, DISTANCE_FIELD, ROW_ID, is_vector

__all__ = ["answer_type", "vector_search"]


def answer_type(schema: pa.Schema) -> pa.DataType:
    """The type of an answer: a list of neighbours, each a struct of the columns but vectors, with id and distance.

    Vectors are left out because a function cannot know which members of its answer are used.
    """
    fields = [
        pa.field(field.name, TYPES.declared(field.type)) for field in schema if not is_vector(field.type)
    ]
    return pa.list_(
        pa.struct([*fields, pa.field(ROW_ID, pa.int64()), pa.field(DISTANCE, DISTANCE_FIELD.type)])
    )


def vector_search(
    follower: TableFollower, answer: pa.DataType
) -> Callable[[pa.ChunkedArray, pa.ChunkedArray], pa.Array]:
    """The Arrow function behind ``knn_vec``: vectors and ks in, lists of neighbours out."""
    members = answer.value_type
    names = tuple(members.field(index).name for index in range(members.num_fields))

    def knn_vec(vectors: pa.ChunkedArray, ks: pa.ChunkedArray) -> pa.Array:
        wanted = ks.to_numpy()
        if len(wanted) == 0:
            return pa.array([], answer)
        for k in np.unique(wanted):
            check_k(int(k))
        snapshot = follower.bind()
        field = vector_column(snapshot.schema, None, [entry.field_id for entry in snapshot.version.indexes])
        queries, _ = check_queries(_matrix(vectors, field), field)
        request = SearchRequest(
            queries=queries,
            k=min(int(wanted.max()), max(snapshot.version.row_count, 1)),
            column=field.name,
            where=None,
            select=names,
            recall=0.95,
            exact=False,
        )
        found = follower.engine.search(snapshot, request)
        return _lists(found.table, found.query, wanted, answer)

    return knn_vec


def _matrix(vectors: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    """The vectors as rows of a matrix, shape ``(queries, length)``."""
    lists = vectors.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    values = lists.flatten()
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1 or lengths[0] != field.type.list_size:
        raise InvalidInputError(
            f"knn_vec() got vectors of length {', '.join(str(length) for length in lengths)}, "
            f"but column {field.name!r} has dimension {field.type.list_size}"
        )
    if values.null_count:
        raise InvalidInputError("knn_vec() got a vector that holds NULL", fix="leave such rows out")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(lists), -1)


def _lists(found: pa.Table, query: np.ndarray, wanted: np.ndarray, answer: pa.DataType) -> pa.Array:
    """Neighbours grouped by query, no more than each query asked for."""
    counts = np.bincount(query, minlength=len(wanted))
    position = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = position < wanted[query]
    members = answer.value_type
    columns = []
    for index in range(members.num_fields):
        field = members.field(index)
        column = found.column(field.name).filter(pa.array(kept)).combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        columns.append(fitted(column, field.type))
    structs = pa.StructArray.from_arrays(columns, fields=list(members))
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, wanted))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs).cast(answer)
