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
from lake_engines import DefaultEngine
from lake_format.engine import WriteRequest
from lake_format.manifest import inline_manifest
from lake_format.roots import numbered_root
from lake_format.row_ids import encode_row_ids
from lake_format.schema import FIELD_ID_KEY
from lake_format.store.paths import external_path

sys.path.insert(0, str(Path(__file__).parents[1]))
from samples import every_type

from golden.cloned import clone, pinned
from golden.computed import computed_columns
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


def schema_changes(golden: Golden) -> None:
    """A column renamed, one dropped, one added after the files were written: fields are matched by id."""
    rows = simple_rows(4)
    table = golden.create(rows.schema)
    table.append(rows)
    old = table.snapshot.schema
    renamed = pa.field("label", old.field("name").type, True, old.field("name").metadata)
    added = pa.field(
        "extra", pa.float64(), True, {FIELD_ID_KEY: str(table.snapshot.version.next_field_id).encode()}
    )
    new = pa.schema([added, renamed, old.field("id")])
    version = table.snapshot.version
    golden.land(
        table, schemas={**version.schemas, 1: new}, schema_id=1, next_field_id=version.next_field_id + 1
    )
    columns = [pa.nulls(4, pa.float64()), rows.column("name"), rows.column("id")]
    plain = pa.schema([("extra", pa.float64()), ("label", pa.string()), pa.field("id", pa.int64(), False)])
    golden.expect(pa.table(columns, plain), range(4), fragments=1)


def flat_index(golden: Golden) -> None:
    """An index over so few rows that it holds no lists, NULL vectors among them."""
    _indexed(golden, built=60, later=5, metrics=("l2",))


def superseded_columns(golden: Golden) -> None:
    """A column whose values were rewritten into a group of its own: the old file still has it."""
    rows = simple_rows(6)
    table = golden.create(rows.schema)
    table.append(rows)
    version = table.snapshot.version
    name = version.schema.field("name")
    request = WriteRequest(
        data={"name": pa.array(["new", None, "newer", "", "x", None])},
        schema=pa.schema([name]),
        schema_id=0,
        properties={},
        new_id=golden.surroundings.new_id,
    )
    (new,) = DefaultEngine().write(table.snapshot.store, request).fragments
    (fragment,) = table.snapshot.fragments.fragments()
    old = [replace(g, superseded=frozenset({2} & set(g.field_ids))) for g in fragment.groups]
    golden.land(
        table,
        manifests=(inline_manifest([replace(fragment, groups=(*old, *new.groups))]),),
        required_features=version.required_features | {"superseded-columns"},
    )
    golden.expect(rows.set_column(1, name.remove_metadata(), request.data["name"]), range(6), fragments=1)


def patch_files(golden: Golden) -> None:
    """Patches over two fragments from one file, over each other, of vectors, of a column that no file has."""
    rows = simple_rows(48)
    patching = {"write.fragment-rows": "24", "write.update-strategy": "patch"}
    table = golden.create(rows.schema, **patching).append(rows).add_column("note", pa.string())
    values = {name: rows.column(name).to_pylist() for name in rows.schema.names} | {"note": [None] * 48}
    for number, (places, new) in enumerate(
        [
            ((3, 5, 30), {"name": "both", "v": [0.5, 1.5, -2.0, 0.0]}),
            ((5, 31), {"name": None, "v": None}),
            ((5, 30), {"v": [8.0, 0.25, 0.0, 1.0]}),
            ((3, 5, 30), {"name": "again", "note": "here"}),
            ((47,), {"note": "there"}),
        ]
    ):
        changed = table.update(new, f"id IN ({', '.join(map(str, places))})")
        assert changed.strategy == "patch", number
        for name, value in new.items():
            for place in places:
                values[name][place] = value
    table.delete("id = 3")
    schema = rows.schema.append(pa.field("note", pa.string()))
    kept = [row for row in range(48) if row != 3]
    golden.expect(pa.table(values, schema).take(kept), kept, fragments=2)


def column_defaults(golden: Golden) -> None:
    """Constants in no file; rows of writers who knew of them and who did not, a patch over them, a rewrite."""
    data = simple_rows(32)
    table, stale = golden.create(data.schema, **{"write.update-strategy": "patch"}), golden.open()
    table.append(data.slice(0, 24)).add_column("n", pa.int16(), 7, nullable=False)
    table.add_column("note", values="as ever").add_column("ratio", values=0.5)
    stale.append(data.slice(24, 4))  # planned before the columns were declared
    table.refresh().append(data.slice(28).append_column("n", pa.array([1, 2, 3, 4], pa.int16())))
    table.update({"note": "patched"}, "id IN (2, 20)")
    table.set_properties({"write.update-strategy": "rewrite"}).update({"n": -1}, "id = 25")
    note = ["patched" if row in (2, 20) else "as ever" if row < 28 else None for row in range(32)]
    n = pa.array([*[7] * 25, -1, 7, 7, 1, 2, 3, 4], pa.int16())
    rows = data.append_column(pa.field("n", pa.int16(), False), n).append_column("note", pa.array(note))
    golden.expect(rows.append_column("ratio", pa.array([0.5] * 28 + [None] * 4)), range(32), fragments=3)


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


def vector_index(golden: Golden) -> None:
    """An index of each metric over part of the rows, NULL vectors among them; the rest was appended later."""
    _indexed(golden, built=1200, later=20, metrics=("l2", "cosine", "ip"))


def index_shards(golden: Golden) -> None:
    """An index of two shards of one model, some of whose rows went stale, and rows that none covers."""
    column = np.random.default_rng(8).standard_normal(1400 * 4).astype("f4")
    rows = pa.table(
        [pa.array(range(1400), pa.int32()), pa.FixedSizeListArray.from_arrays(pa.array(column), 4)],
        pa.schema([("n", pa.int32()), ("v", pa.list_(pa.float32(), 4))]),
    )
    table = golden.create(rows.schema)
    table.append(rows.slice(0, 1250)).create_index("v", lists=8)
    table.append(rows.slice(1250, 120)).optimize_index()
    table.append(rows.slice(1370))
    entry = table.snapshot.version.indexes[0]
    assert [shard.row_count for shard in entry.shards] == [1250, 120]
    stale = BitMap64([2, 7, 1255, 1390]).serialize()
    golden.land(table, indexes=(replace(entry, stale=stale),))
    query = [0.3, -1.1, 0.7, 0.2]
    nearest = {"l2": _nearest(rows, query, "l2", 10)}
    golden.expect(rows, range(1400), fragments=3, query=query, nearest=nearest, covered=1370)


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


def _indexed(golden: Golden, *, built: int, later: int, metrics: tuple[str, ...]) -> None:
    total = built + later
    drawn = np.random.default_rng(7).standard_normal(total * 4).astype("f4")  # no two at the same distance
    column = with_nulls(pa.FixedSizeListArray.from_arrays(pa.array(drawn), 4), [3, 40])
    rows = pa.table(
        [pa.array(range(total), pa.int32()), column],
        pa.schema([("n", pa.int32()), ("v", pa.list_(pa.float32(), 4))]),
    )
    table = golden.create(rows.schema)
    table.append(rows.slice(0, built))
    for metric in metrics:
        table.create_index("v", metric, lists=8)
    table.append(rows.slice(built))
    query = [0.3, -1.1, 0.7, 0.2]
    nearest = {metric: _nearest(rows, query, metric, 10) for metric in metrics}
    golden.expect(rows, range(total), fragments=2, query=query, nearest=nearest, covered=built - 2)


def _nearest(rows: pa.Table, query: list[float], metric: str, k: int) -> list[list[float]]:
    """Row id and distance of the k nearest rows, computed one by one in double precision."""
    found = []
    asked = np.array(query, np.float32).astype(np.float64)
    for row_id, vector in enumerate(rows.column("v").to_pylist()):
        if vector is None:
            continue
        values = np.array(vector)
        product = float(values @ asked)
        distance = {
            "l2": float(np.sqrt(((values - asked) ** 2).sum())),
            "ip": -product,
            "cosine": 1 - product / float(np.sqrt((values @ values) * (asked @ asked))),
        }[metric]
        found.append([distance, row_id])
    return [[row_id, distance] for distance, row_id in sorted(found)[:k]]


def keys(golden: Golden) -> None:
    """A key of two columns and no key index, as a table from before there were any."""
    table, rows = _keyed(golden, 20)
    features = table.snapshot.version.required_features - {"key-index"}
    golden.land(table, key_index=None, required_features=features)
    golden.expect(rows, range(20), fragments=1)


def key_index(golden: Golden) -> None:
    """Runs of the key index in files and in the version; rows deleted, stale, and not covered by any."""
    table, first = _keyed(golden, 700)
    table.delete("id % 7 = 3")
    table.compact()
    later = [_key_rows(300, 700), _key_rows(5, 1_000), _key_rows(3, 1_005)]
    for rows in later:
        table.append(rows)
    index = table.snapshot.version.key_index
    assert index is not None
    known = replace(index, runs=index.runs[:-1]).with_stale(np.array([0, 705], np.uint64))
    golden.land(table, key_index=known)
    kept = [row for row in range(700) if row % 7 != 3]
    rows = pa.concat_tables([first.take(pa.array(kept)), *later]).combine_chunks()
    golden.expect(rows, [*kept, *range(700, 1_008)], fragments=4, unanswered=[0, 705, 1_005, 1_006, 1_007])


def _key_rows(count: int, first: int) -> pa.Table:
    ids = range(first, first + count)
    schema = pa.schema([pa.field("region", pa.string(), False), pa.field("id", pa.int32(), False)])
    return pa.table([[f"region {number % 3}" for number in ids], pa.array(ids, pa.int32())], schema)


def _keyed(golden: Golden, count: int) -> tuple[lake.Table, pa.Table]:
    rows = _key_rows(count, 0)
    table = lake.create(golden.uri, rows.schema, key=["region", "id"], surroundings=golden.surroundings)
    return table.append(rows), rows


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
