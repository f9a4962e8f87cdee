"""Engines over a table against the same engine over Parquet: ``python -m bench.engines [--rows 200000] [--spark]``.

Searches through DataFusion and DuckDB beside ``Table.search``, alternated and warm; scans and aggregates beside the
engine's own reading of Parquet with the same rows, and of Lance where the engine takes it. Bounds: knn() at most 2 ms
over the search in DataFusion (3 in DuckDB), ORDER BY at most 2 ms more; scans and aggregates at most 1.5 times
Parquet; in Spark reads at most twice, writes no slower, vectors into ``mapInArrow`` at most 0.8 of Parquet.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lake_format as lake
from bench.data import CACHE, clustered, items
from bench.harness import alternate, machine, show
from lake_connectors import datafusion as lake_datafusion
from lake_connectors import duckdb as lake_duckdb

K = 10
AGGREGATES = {
    "sum of one column": "SELECT sum(price) FROM {table}",
    "group by a text column": "SELECT category, avg(price) FROM {table} GROUP BY category",
    "count where 1 % match": "SELECT count(*), max(title) FROM {table} WHERE price < 1",
}


def made(rows: int) -> tuple[Path, np.ndarray]:
    """The same rows as a table with an index, as Parquet and as Lance; kept between runs."""
    vectors, queries = clustered(rows)
    root = CACHE / "bench" / f"engines-{rows}"
    if not (root / "done").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        schema = next(items(vectors)).schema
        table = lake.create(str(root / "items"), schema)
        table.append(pa.RecordBatchReader.from_batches(schema, items(vectors))).create_index("vec")
        with pq.ParquetWriter(root / "items.parquet", schema, compression="zstd") as writer:
            for batch in items(vectors):
                writer.write_batch(batch)
        import lance

        lance.write_dataset(
            pa.RecordBatchReader.from_batches(schema, items(vectors)), str(root / "items.lance")
        )
        (root / "done").touch()
    return root, queries


def searches(root: Path, queries: np.ndarray) -> None:
    """What SQL adds to a search."""
    table = lake.open(str(root / "items"))
    ctx = lake_datafusion.connect().attach(table, "items")
    con = lake_duckdb.connect().attach(table, "items")
    vectors = itertools.cycle([query.tolist() for query in queries])
    columns = ["id", "title", "price"]
    names = ", ".join(columns)
    kind = pa.list_(pa.float32())
    native = f"?::FLOAT[{queries.shape[1]}]"

    def datafusion(sql: str) -> Callable[[], object]:
        return lambda: ctx.sql(sql, param_values={"q": pa.scalar(next(vectors), kind)}).to_arrow_table()

    for task, where in {"no filter": None, "10 % match": "price < 10"}.items():
        condition = "" if where is None else f"WHERE {where}"
        knn = f"SELECT {names} FROM knn('items', {{}}, {K}) {condition}"
        ordered = f"SELECT {names} FROM items {condition} ORDER BY array_distance(vec, {{}}) LIMIT {K}"
        ways: dict[str, Callable[[], object]] = {
            "lake": lambda where=where: table.search(
                next(vectors), K, where=where, select=columns
            ).to_arrow(),
            "DataFusion knn()": datafusion(knn.format("$q")),
            "DataFusion ORDER BY": datafusion(ordered.format("$q")),
            "DuckDB knn()": lambda knn=knn: con.execute(knn.format("?"), [next(vectors)]).fetchall(),
            "DuckDB ORDER BY": lambda ordered=ordered: con.execute(
                ordered.format(native), [next(vectors)]
            ).fetchall(),
        }
        for query in queries:  # from here on no way waits for the disk, whichever asks first
            table.search(query, K, where=where)
        print(show(alternate(f"search, {task}", ways, rounds=60, warmups=5)))


def aggregates(root: Path) -> None:
    """Scans and aggregates, in DuckDB and DataFusion."""
    import lance

    con = lake_duckdb.connect().attach(str(root / "items"), "items")
    dataset = lance.dataset(str(root / "items.lance"))
    con.register("in_lance", dataset)
    ctx = lake_datafusion.connect().attach(str(root / "items"), "items")
    ctx.register_parquet("in_parquet", str(root / "items.parquet"))
    for task, sql in AGGREGATES.items():
        parquet = f"read_parquet('{root}/items.parquet')"
        ways: dict[str, Callable[[], object]] = {
            "lake": lambda sql=sql: con.execute(sql.format(table="items")).fetchall(),
            "Parquet": lambda sql=sql, parquet=parquet: con.duckdb.execute(
                sql.format(table=parquet)
            ).fetchall(),
            "Lance": lambda sql=sql: con.duckdb.execute(sql.format(table="in_lance")).fetchall(),
        }
        print(show(alternate(f"DuckDB: {task}", ways, rounds=15, warmups=2)))
        ways = {
            "lake": lambda sql=sql: ctx.sql(sql.format(table="items")).to_arrow_table(),
            "Parquet": lambda sql=sql: ctx.sql(sql.format(table="in_parquet")).to_arrow_table(),
        }
        print(show(alternate(f"DataFusion: {task}", ways, rounds=15, warmups=2)))


def _length(batches: Any) -> Any:
    for batch in batches:
        yield pa.record_batch({"n": pa.array([len(batch.column("vec").flatten())], pa.int64())})


def spark_jobs(root: Path) -> None:
    """Reads and writes in Spark."""
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    from spark_session import session

    from lake_connectors import spark as lake_spark

    spark, uri = session(), str(root / "items")

    def native() -> Any:
        return spark.read.parquet(str(root / "items.parquet"))

    def noop(frame: Any) -> None:
        frame.write.format("noop").mode("overwrite").save()

    tasks: dict[str, dict[str, Callable[[], object]]] = {
        "read everything": {
            "lake": lambda: noop(lake_spark.read(spark, uri)),
            "Parquet": lambda: noop(native()),
        },
        "sum of one column": {
            "lake": lambda: lake_spark.read(spark, uri, columns=["price"]).agg({"price": "sum"}).collect(),
            "Parquet": lambda: native().agg({"price": "sum"}).collect(),
        },
        "vectors into mapInArrow": {
            "lake": lambda: noop(lake_spark.map_batches(spark, uri, _length, "n bigint", columns=["vec"])),
            "Parquet": lambda: noop(native().select("vec").mapInArrow(_length, "n bigint")),
        },
    }
    for task, ways in tasks.items():
        print(show(alternate(f"Spark: {task}", ways, rounds=4, warmups=1)))
    frame, numbers = native().cache(), itertools.count()
    frame.count()

    def write_lake() -> None:
        target = str(root / f"written-{next(numbers)}")
        lake.create(target, lake.open(uri).schema)
        frame.write.format("lake").mode("append").save(target)
        shutil.rmtree(target)

    def write_parquet() -> None:
        frame.write.mode("overwrite").option("compression", "zstd").parquet(str(root / "written.parquet"))

    ways = {"lake": write_lake, "Parquet": write_parquet}
    print(show(alternate("Spark: write everything", ways, rounds=3, warmups=1)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--no-spark", action="store_true")
    options = parser.parse_args()
    root, queries = made(options.rows)
    print(f"{machine()}; {options.rows:,} rows of {queries.shape[1]}")
    searches(root, queries)
    aggregates(root)
    if not options.no_spark:
        spark_jobs(root)


if __name__ == "__main__":
    main()
