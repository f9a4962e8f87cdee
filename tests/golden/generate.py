"""Writes the golden tables anew: ``python -m tests.golden.generate [NAME…]`` from the repository's root.

Run it only while the format version is 0 and the format changed on purpose. Clock and ids are the generator's own,
so that a second run changes as few bytes as the libraries below allow. What is expected of a table is put down from
the data that went in, never by reading the table.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyroaring import BitMap64

import lake_format as lake
from lake_format.manifest import inline_manifest
from lake_format.roots import numbered_root
from lake_format.row_ids import encode_row_ids
from lake_format.store.paths import external_path

sys.path.insert(0, str(Path(__file__).parents[1]))
from samples import every_type

from golden.branched import merged_branch
from golden.cloned import clone, pinned
from golden.computed import computed_columns
from golden.evolved import (
    column_defaults,
    evolved_types,
    listed_vectors,
    patch_files,
    schema_changes,
    superseded_columns,
)
from golden.indexed import flat_index, index_shards, vector_index
from golden.keyed import key_index, keys
from golden.making import OUTSIDE, ROOT, Golden, as_object, simple_rows, surroundings_of, vectors, with_nulls
from golden.opened import open_layout

# --- the tables -------------------------------------------------------------------------------------------------


def empty(golden: Golden) -> None:
    """A table that was created and nothing else."""
    rows = simple_rows(0)
    golden.create(rows.schema)
    golden.expect(rows, [])


def append(golden: Golden) -> None:
    """Three appends; the last cut into two fragments."""
    parts = [simple_rows(5), simple_rows(3, 5), simple_rows(4, 8)]
    table = golden.create(parts[0].schema, **{"write.fragment-rows": "5", "user.owner": "golden"})
    for part in parts[:2]:
        table.append(part)
    table.append(pa.concat_tables([parts[2], simple_rows(3, 12)]))
    golden.expect(simple_rows_of([*parts, simple_rows(3, 12)]), range(15), fragments=4)


def simple_rows_of(parts: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).combine_chunks()


def types(golden: Golden) -> None:
    """Every Arrow type, NULLs included, in the default formats."""
    rows = every_type(5)
    golden.create(rows.schema).append(rows)
    golden.expect(rows, range(5))


def parquet(golden: Golden) -> None:
    """Every Arrow type with scalars in Parquet."""
    rows = every_type(5)
    golden.create(rows.schema, **{"write.scalar-format": "parquet"}).append(rows)
    golden.expect(rows, range(5))


def null_vectors(golden: Golden) -> None:
    """Vector columns of float32 and float16 with NULLs: some, none, all in a fragment, and a column without NULLs."""
    schema = pa.schema(
        [
            pa.field("full", pa.list_(pa.float32(), 3), False),
            pa.field("some", pa.list_(pa.float32(), 4)),
            pa.field("half", pa.list_(pa.float16(), 2)),
        ]
    )
    first = [vectors(6, 3, 1), with_nulls(vectors(6, 4, 2), [0, 3]), with_nulls(vectors(6, 2, 3, "f2"), [5])]
    second = [vectors(3, 3, 4), with_nulls(vectors(3, 4, 5), [0, 1, 2]), vectors(3, 2, 6, "f2")]
    parts = [pa.table(columns, schema) for columns in (first, second)]
    table = golden.create(schema)
    for part in parts:
        table.append(part)
    golden.expect(pa.concat_tables(parts).combine_chunks(), range(9), fragments=2)


def stored_manifest(golden: Golden) -> None:
    """A manifest in an object of its own with a removed fragment, after an inline one of a later fragment."""
    parts = [simple_rows(3, 3 * number) for number in range(4)]
    table = golden.create(parts[0].schema)
    for part in parts:
        table.append(part)
    made = table.snapshot.fragments.fragments()
    reference = as_object(table, made[:3], golden.surroundings)
    less = replace(reference, removed=(made[1].fragment_id,), row_count=reference.row_count - 3)
    golden.land(table, manifests=(inline_manifest(made[3:]), less), row_count=9)
    kept = [parts[0], parts[2], parts[3]]
    golden.expect(simple_rows_of(kept), [0, 1, 2, 6, 7, 8, 9, 10, 11], fragments=3)


def deletions(golden: Golden) -> None:
    """Deleted positions in every kind of bitmap container, and a fragment with all rows deleted."""
    sizes = (10, 9_000, 66_000, 4)
    parts = [pa.table({"n": pa.array([row // 100 for row in range(size)], pa.int64())}) for size in sizes]
    table = golden.create(parts[0].schema)
    for part in parts:
        table.append(part)
    gone = [
        {0, 4, 9},  # an array container
        {row for row in range(9_000) if row % 3},  # a bitmap container
        set(range(10, 65_990)),  # two run containers
        {0, 1, 2, 3},
    ]
    made = [
        replace(fragment, deletions=_bitmap(positions), deleted_count=len(positions))
        for fragment, positions in zip(table.snapshot.fragments.fragments(), gone, strict=True)
    ]
    kept = [[row for row in range(size) if row not in lost] for size, lost in zip(sizes, gone, strict=True)]
    golden.land(
        table,
        manifests=(inline_manifest(made),),
        row_count=sum(map(len, kept)),
        required_features=table.snapshot.version.required_features | {"deletion-bitmaps"},
    )
    rows = pa.concat_tables(
        [part.take(pa.array(rows, pa.int64())) for part, rows in zip(parts, kept, strict=True)]
    ).combine_chunks()
    starts = (0, 10, 9_010, 75_010)
    ids = [start + row for start, rows_kept in zip(starts, kept, strict=True) for row in rows_kept]
    golden.expect(rows, ids, fragments=4)


def _bitmap(positions: set[int]) -> bytes:
    bitmap = BitMap64(positions)
    bitmap.run_optimize()
    data: bytes = bitmap.serialize()
    return data


def moved_rows(golden: Golden) -> None:
    """Row-id sequences of both kinds, as compaction and clustering leave them."""
    parts = [simple_rows(6), simple_rows(40, 6)]
    table = golden.create(parts[0].schema)
    for part in parts:
        table.append(part)
    first, second = table.snapshot.fragments.fragments()
    shuffled = [5, 0, 3, 1, 4, 2]
    shifted = [*range(26, 46), *range(6, 26)]
    made = [
        replace(
            fragment,
            fragment_id=number,
            first_row_id=None,
            row_id_sequence=encode_row_ids(np.array(ids, "u8")),
        )
        for number, fragment, ids in ((2, first, shuffled), (3, second, shifted))
    ]
    golden.land(
        table,
        manifests=(inline_manifest(made),),
        next_fragment_id=4,
        required_features=table.snapshot.version.required_features | {"row-id-sequences"},
    )
    golden.expect(simple_rows_of(parts), shuffled + shifted, fragments=2)


def partitions(golden: Golden) -> None:
    """Two ways of partitioning, one after the other, NULL among the values; rows that moved to another partition."""
    rows = simple_rows(30).take([(7 * row) % 30 for row in range(30)])
    table = lake.create(
        golden.uri, rows.schema, partition_by="truncate(10, id)", surroundings=golden.surroundings
    )
    table.append(rows).set_partitioning("name")
    later = simple_rows(3, 30).set_column(1, rows.schema.field("name"), pa.array(["x", None, "x"]))
    table.append(later)
    table.update({"id": 5000}, where="id = 4")
    ids = rows["id"].to_pylist()
    tens = dict.fromkeys(value // 10 for value in ids)  # in the order in which they are met
    order = [row for ten in tens for row in range(30) if ids[row] // 10 == ten]
    parted = rows.take(order)
    row_ids = list(range(33))
    moved = parted["id"].to_pylist().index(4)
    stay = [row for row in range(30) if row != moved]
    new = parted.slice(moved, 1).set_column(0, rows.schema.field("id"), pa.array([5000]))
    expected = pa.concat_tables([parted.take(stay), later.take([0, 2, 1]), new]).combine_chunks()
    golden.expect(expected, [*stay, *row_ids[30:], moved], fragments=6)


def clustered(golden: Golden) -> None:
    """Rows that clustering put in order, deleted ones left out, and rows written in the order of the table."""
    rows = simple_rows(24).take([(5 * row) % 24 for row in range(24)])
    table = golden.create(rows.schema, **{"write.fragment-rows": "10"}).append(rows)
    table.delete("id = 3")
    table.set_clustering("id").cluster()
    table.append(simple_rows(3, 30).take([2, 0, 1]))
    ids = rows["id"].to_pylist()
    kept = [ids.index(value) for value in range(24) if value != 3]
    expected = pa.concat_tables([rows.take(kept), simple_rows(3, 30)]).combine_chunks()
    golden.expect(expected, [*kept, 24, 25, 26], fragments=4)


def expired_versions(golden: Golden) -> None:
    """Versions before the fourth have expired, and were collected but for a tagged one."""
    rows = simple_rows(9)
    table = golden.create(rows.schema)
    for start in range(0, 9, 3):
        table.append(rows.slice(start, 3))
    table.tag("kept", version=2)
    table.expire_versions(keep=2)
    table.collect_garbage(dry_run=False)
    golden.expect(rows, range(9), fragments=3, kept=2, expired=[1, 3])


def history(golden: Golden) -> None:
    """Thirty-five versions: a history checkpoint after the thirty-second, and versions that remember those before."""
    rows = simple_rows(3)
    table = golden.create(rows.schema)
    table.append(rows)
    for number in range(33):
        table.tag("now", move=True, version=2 + number)
    golden.expect(rows, range(3), fragments=1, versions=35, first_second=1_750_000_000)


def external_files(golden: Golden) -> None:
    """A manifest object of the table `stored-manifest`, another of its fragments by its files, and own rows."""
    source = lake.open(str(ROOT / "stored-manifest"))
    theirs = source.snapshot.version
    number, uri = numbered_root(f"{OUTSIDE}/stored-manifest", {})
    table = golden.create(source.snapshot.schema)
    stored = next(one for one in theirs.manifests if one.path is not None)
    last = source.snapshot.fragments.fragments()[-1]
    moved = tuple(replace(one, path=external_path(number, one.path)) for one in last.groups)
    golden.land(
        table,
        manifests=(
            replace(stored, path=external_path(number, stored.path or "")),
            inline_manifest([replace(last, groups=moved)]),
        ),
        row_count=theirs.row_count,
        next_row_id=theirs.next_row_id,
        next_fragment_id=theirs.next_fragment_id,
        roots={number: uri},
        required_features=theirs.required_features | {"external-files"},
    )
    golden.open().append(simple_rows(2, 20))
    kept = [simple_rows(3, first) for first in (0, 6, 9)]
    golden.expect(
        simple_rows_of([*kept, simple_rows(2, 20)]), [0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13], fragments=4
    )


TABLES: dict[str, Callable[[Golden], None]] = {
    "empty": empty,
    "append": append,
    "types": types,
    "parquet": parquet,
    "null-vectors": null_vectors,
    "stored-manifest": stored_manifest,
    "deletions": deletions,
    "moved-rows": moved_rows,
    "schema-changes": schema_changes,
    "superseded-columns": superseded_columns,
    "evolved-types": evolved_types,
    "listed-vectors": listed_vectors,
    "merged-branch": merged_branch,
    "patch-files": patch_files,
    "column-defaults": column_defaults,
    "computed-columns": computed_columns,
    "partitions": partitions,
    "clustered": clustered,
    "flat-index": flat_index,
    "vector-index": vector_index,
    "index-shards": index_shards,
    "expired-versions": expired_versions,
    "external-files": external_files,
    "pinned": pinned,
    "clone": clone,
    "history": history,
    "open-layout": open_layout,
    "keys": keys,
    "key-index": key_index,
}


def generate(name: str) -> None:
    """Write one golden table, and beside it what is expected of it."""
    golden = Golden(name, surroundings_of(name))
    shutil.rmtree(golden.uri, ignore_errors=True)
    TABLES[name](golden)
    assert golden.rows is not None
    with pa.ipc.new_file(
        f"{golden.uri}.arrow", golden.rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(golden.rows)
    description = {"about": (TABLES[name].__doc__ or "").strip(), **(golden.facts or {})}
    Path(f"{golden.uri}.json").write_text(json.dumps(description, indent=1) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or TABLES:
        generate(wanted)
        print(wanted)
