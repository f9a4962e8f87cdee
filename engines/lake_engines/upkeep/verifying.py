"""Reads everything a version names and checks it: files, values against their statistics, index lists.

Files are opened anew, past every cache, one at a time. Memory follows one batch of one fragment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lake_engines.arrays import keep
from lake_engines.files import WrittenFile, open_reader
from lake_engines.files.vector_reader import VectorReader
from lake_engines.fragment_reader import FragmentReader, ReaderPool
from lake_engines.upkeep.rewriting import batch_rows_of
from lake_format.errors import CorruptionError
from lake_format.model import ColumnGroup, Fragment, IndexShard
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot
from lake_format.statistics import ColumnStatistics, StatisticsBuilder, encode_bound
from lake_format.store.base import Store
from lake_format.store.table_store import name_of
from lake_format.verification import WRONG, Problem

__all__ = ["check_fragment", "check_shard", "measure_fragment"]

_LISTS_AT_ONCE = 16


def check_fragment(snapshot: Snapshot, fragment: Fragment, checked: set[str]) -> Iterator[Problem]:
    """Problems of one fragment's files, and of what its statistics say about their live rows.

    Parameters
    ----------
    checked
        Files that need no second look, as patches of many fragments share one; those looked at are added.
    """
    found = list(_check_files(snapshot, fragment, checked))
    yield from found
    if found:
        return
    try:
        actual = _measured(snapshot, fragment, whole=True)
    except WRONG as error:
        yield Problem(_paths(snapshot, fragment), error.what)
        return
    for problem in _contradictions(snapshot, fragment, actual):
        yield Problem(_paths(snapshot, fragment), problem)
    if (impurity := _impurity(snapshot, fragment)) is not None:
        yield Problem(_paths(snapshot, fragment), impurity)


def measure_fragment(snapshot: Snapshot, fragment: Fragment) -> tuple[ColumnStatistics, ...]:
    """The statistics of a fragment's live rows, measured; CorruptionError where a file of it is damaged."""
    for problem in _check_files(snapshot, fragment, set()):
        raise CorruptionError(f"{problem.path}: {problem.what}")
    return tuple(_measured(snapshot, fragment).values())


def _check_files(snapshot: Snapshot, fragment: Fragment, checked: set[str]) -> Iterator[Problem]:
    files = [(group, fragment.row_count) for group in fragment.groups]
    files += [(patch.file, patch.file_rows) for patch in fragment.patches]
    for file, rows in files:
        if file.path not in checked:
            checked.add(file.path)
            yield from _check_file(snapshot, file, rows)


def _paths(snapshot: Snapshot, fragment: Fragment) -> str:
    return ", ".join(name_of(snapshot.store, file.path) for file in fragment.files())


def _check_file(snapshot: Snapshot, group: ColumnGroup, rows: int) -> Iterator[Problem]:
    where = name_of(snapshot.store, group.path)
    try:
        size = snapshot.store.size(group.path)
        if size != group.size:
            yield Problem(where, f"the file has {size} bytes, not the {group.size} recorded for it")
            return
        schema = snapshot.version.schemas.get(group.schema_id)
        if schema is None:  # told with the metadata
            return
        fields = [field_by_id(schema, identity) for identity in group.field_ids]
        file = WrittenFile(
            path=group.path,
            format=group.format,
            rows=rows,
            size=group.size,
            layout=group.layout,
        )
        reader = open_reader(snapshot.store, file, pa.schema([one for one in fields if one is not None]))
        reader.verify()
        if reader.rows != rows:
            yield Problem(where, f"the file has {reader.rows} rows, not the {rows} recorded for it")
        if isinstance(reader, VectorReader):
            _check_as_parquet(snapshot.store, file)
    except WRONG as error:
        yield Problem(where, error.what)


def _check_as_parquet(store: Store, file: WrittenFile) -> None:
    """Read a vector file as any Parquet reader does, by its footer, which our own reads never need."""
    stock = open_reader(store, replace(file, layout=b""))
    rows = sum(batch.num_rows for batch in stock.scan())
    if rows != file.rows:
        raise CorruptionError(f"the footer of {file.path!r} tells of {rows} rows, not {file.rows}")


def _measured(snapshot: Snapshot, fragment: Fragment, *, whole: bool = False) -> dict[int, ColumnStatistics]:
    """The statistics of the live rows, by field id; ``whole`` leaves long bounds uncut, as a partition's are."""
    reader = FragmentReader(snapshot, fragment, ReaderPool())
    deleted = reader.deleted().astype(np.int64)
    builder = StatisticsBuilder(snapshot.schema, whole=whole)
    names = snapshot.schema.names
    for start, batch in reader.scan(names, 0, fragment.row_count, batch_rows_of(fragment)):
        mask = np.ones(batch.num_rows, bool)
        mask[deleted[(deleted >= start) & (deleted < start + batch.num_rows)] - start] = False
        builder.update(keep(batch, mask))
    return {one.field_id: one for one in builder.finish()}


def _impurity(snapshot: Snapshot, fragment: Fragment) -> str | None:
    """What is wrong with a fragment's partition: a live row that belongs to another one."""
    if fragment.partition is None:
        return None
    name = f"fragment {fragment.fragment_id}"
    spec = snapshot.version.partition_specs.get(fragment.partition.spec_id)
    if spec is None or len(spec.fields) != len(fragment.partition.values):
        return f"{name} is in a partition of no spec of the table"
    reader = FragmentReader(snapshot, fragment, ReaderPool())
    deleted = reader.deleted().astype(np.int64)
    for one, value in zip(spec.fields, fragment.partition.values, strict=True):
        column = field_by_id(snapshot.schema, one.source_id)
        if column is None:  # dropped since
            continue
        for start, batch in reader.scan([column.name], 0, fragment.row_count, batch_rows_of(fragment)):
            mask = np.ones(batch.num_rows, bool)
            mask[deleted[(deleted >= start) & (deleted < start + batch.num_rows)] - start] = False
            results = one.transform.apply(keep(batch, mask).column(0)).unique()
            if any((encode_bound(result) if result.is_valid else None) != value for result in results):
                return f"{name} holds a row of another partition by {one.transform.of(column.name)}"
    return None


def _contradictions(
    snapshot: Snapshot, fragment: Fragment, actual: dict[int, ColumnStatistics]
) -> Iterator[str]:
    """What the statistics, as pruning reads them, say that the live rows contradict."""
    try:
        table = snapshot.fragments
    except WRONG:  # told with the metadata; pruning does not get as far either
        return
    at = int(np.searchsorted(table.integers("fragment_id"), np.uint64(fragment.fragment_id)))
    live = fragment.row_count - fragment.deleted_count
    for identity, found in actual.items():
        column = table.column(identity)
        if column is None:
            continue
        lower, upper, nulls, nans = (values[at].as_py() for values in column)
        name = f"the statistics of field {identity} in fragment {fragment.fragment_id}"
        if (
            nulls is not None
            and not found.null_count <= nulls <= fragment.row_count - live + found.null_count
        ):
            yield f"{name} count {nulls} NULLs; {found.null_count} of {live} live rows are"
        if nans is not None and (found.nan_count or 0) > nans:
            yield f"{name} count {nans} NaNs; there are {found.nan_count}"
        if lower is not None and found.lower is not None and found.lower < lower:
            yield f"{name} have a lower bound above a value"
        if upper is not None and found.upper is not None and found.upper > upper:
            yield f"{name} have an upper bound below a value"


def check_shard(store: Store, shard: IndexShard) -> Iterator[Problem]:
    """Problems of one index file: its head, and every list of it."""
    from lake_engines.index import IndexReader  # noqa: PLC0415 - loads faiss
    from lake_engines.index.list_store import Transfer  # noqa: PLC0415
    from lake_engines.index.refinement import RECORDS_PER_CHECKSUM  # noqa: PLC0415

    where = name_of(store, shard.path)
    try:
        reader = IndexReader.open(
            store,
            shard.path,
            size=shard.size,
            head_length=shard.head_length,
            head_crc=shard.head_crc,
            cache_bytes=0,
        )
        if reader.count != shard.row_count:
            yield Problem(where, f"the index holds {reader.count} rows, its entry {shard.row_count}")
            return
        opened = reader._shard
        if opened is None:
            return
        seen = np.zeros(reader.count, np.int64)
        transfer = Transfer()
        np.add.at(seen, opened.lists.undirected(transfer), 1)
        for _, ordinals in reader.lists(_LISTS_AT_ONCE):
            np.add.at(seen, ordinals, 1)
        if opened.refine is not None:  # one record of each run of records checks the whole run
            opened.refine.score(
                np.arange(0, reader.count, RECORDS_PER_CHECKSUM), np.zeros(reader.dimension, np.float32)
            )
        if seen.max(initial=0) > 1:
            yield Problem(where, f"the lists of the index hold row {int(seen.argmax())} more than once")
    except WRONG as error:
        yield Problem(where, error.what)
