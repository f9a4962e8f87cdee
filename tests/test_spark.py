"""Spark over tables: reads and writes by the data source, jobs on executors, neighbours in SQL."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from index_samples import clustered
from pyspark.errors import PySparkException
from spark_session import session

import lake_format as lake
from lake_connectors import spark as lake_spark
from lake_connectors.spark.creating import NewTable, shape_of
from lake_connectors.spark.reading import Place
from lake_connectors.spark.source import _Writer, _Written
from lake_connectors.spark.types import TYPES, as_spark_batch
from lake_format.table import Table

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("title", pa.string()),
        ("price", pa.float64()),
        ("place", pa.struct([("city", pa.string())])),
        ("vec", pa.list_(pa.float32(), 4)),
    ]
)


@pytest.fixture(scope="module")
def spark() -> Any:
    return session()


def rows(start: int, count: int) -> pa.Table:
    random = np.random.default_rng(start)
    values = random.random(count * 4, dtype=np.float32)
    ids = range(start, start + count)
    prices = [None if n % 7 == 0 else float("nan") if n % 11 == 0 else n / 2 for n in ids]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "title": pa.array([None if n % 5 == 0 else f"title {n}" for n in ids]),
            "price": pa.array(prices, pa.float64()),
            "place": pa.array([{"city": f"c{n % 3}"} for n in ids], SCHEMA.field("place").type),
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(values), 4),
        },
        schema=SCHEMA,
    )


@pytest.fixture
def table(tmp_path: Path) -> Table:
    made = lake.create(str(tmp_path / "items"), SCHEMA)
    for start in (0, 100, 200):
        made.append(rows(start, 100))
    return made


def load(spark: Any, table: Table, **options: str) -> Any:
    return spark.read.format("lake").options(**options).load(table.uri)


def ids(frame: Any) -> list[int]:
    return sorted(row.id for row in frame.select("id").collect())


def test_rows_come_back_as_they_are(spark: Any, table: Table) -> None:
    found = load(spark, table).orderBy("id").toArrow()
    expected = table.to_arrow()
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        one, other = (repr(each.column(name).to_pylist()) for each in (found, expected))
        assert one == other, name


@pytest.mark.parametrize(
    "condition",
    [
        "id < 30",
        "id BETWEEN 90 AND 110 AND title IS NOT NULL",
        "title = 'title 7' OR id = 8",
        "price > 100",
        "NOT price <= 100",
        "title LIKE 'title 1%'",
        "id IN (1, 2, 250) AND lower(title) = 'title 2'",
        "place.city = 'c1' AND id < 10",
        "vec IS NULL",
    ],
)
def test_filters_select_what_spark_selects_itself(spark: Any, table: Table, condition: str) -> None:
    copy = spark.createDataFrame(table.to_arrow().select(["id", "title", "price", "place"]))
    expected = [] if condition == "vec IS NULL" else ids(copy.where(condition))
    assert ids(load(spark, table).where(condition)) == expected
    if "lower" not in condition and "place" not in condition:
        fast = lake_spark.read(spark, table.uri, columns=["id"], where=condition)
        assert ids(fast) == expected


def test_without_pushed_filters_spark_filters_itself(spark: Any, table: Table) -> None:
    """Spark's default, under which it refuses every reader that takes filters."""
    name = "spark.sql.python.filterPushdown.enabled"
    spark.conf.unset(name)
    try:
        plain = lake_spark.register(spark)
        assert load(plain, table).count() == 300
        assert ids(load(plain, table).where("id < 3 OR id > 297")) == [0, 1, 2, 298, 299]
    finally:
        spark.conf.set(name, "true")
        lake_spark.register(spark)
    assert ids(load(spark, table).where("id < 3")) == [0, 1, 2]


def test_versions_columns_and_row_ids(spark: Any, table: Table) -> None:
    table.tag("early", 2)
    assert load(spark, table, version="3").count() == 200
    assert load(spark, table, tag="early").count() == 100
    frame = load(spark, table, columns="title,id", rowIds="true")
    assert frame.columns == ["title", "id", "_row_id"]
    assert [row._row_id for row in frame.where("id IN (3, 4)").orderBy("id").collect()] == [3, 4]
    fast = lake_spark.read(spark, table.uri, columns=["id"], row_ids=True, version=2)
    assert (fast.columns, fast.count()) == (["id", "_row_id"], 100)


def test_a_frame_reads_one_version_whatever_is_committed_meanwhile(spark: Any, table: Table) -> None:
    fast = lake_spark.read(spark, table.uri, columns=["id"])
    table.delete("id < 100").version  # noqa: B018
    table.compact()
    assert fast.count() == 300
    assert load(spark, table).count() == 200


def test_append_and_overwrite_are_one_commit_each(spark: Any, table: Table) -> None:
    frame = spark.createDataFrame(rows(500, 40)).repartition(3)
    frame.write.format("lake").mode("append").save(table.uri)
    assert table.refresh().version == 5
    assert ids(load(spark, table).where("id >= 500")) == list(range(500, 540))
    spark.range(3).write.format("lake").mode("overwrite").save(table.uri)
    assert table.refresh().version == 6
    assert sorted(table.scan(["id"]).read_all().column("id").to_pylist()) == [0, 1, 2]
    assert table.checkout(5).count() == 340
    assert not table.verify().problems
    vectors = table.checkout(5).take([300], columns=["vec"]).column("vec")
    assert vectors.type == pa.list_(pa.float32(), 4)


def test_a_job_that_is_run_again_writes_once(spark: Any, table: Table) -> None:
    for _ in range(2):
        writing = spark.range(1000, 1010).write.format("lake").mode("append")
        writing.option("idempotencyWriter", "nightly").option("idempotencySequence", 7).save(table.uri)
    assert table.refresh().count() == 310


def test_a_job_that_has_committed_writes_no_file_when_it_is_run_again(spark: Any, table: Table) -> None:
    def run(sequence: str) -> set[str]:
        writing = spark.range(1000, 1010).write.format("lake").mode("overwrite")
        writing.option("idempotencyWriter", "nightly").option("idempotencySequence", sequence).save(table.uri)
        return {info.path for info in table.refresh().snapshot.store.list("data/")}

    assert not table.is_committed(("nightly", 7))
    files = run("7")
    assert table.is_committed(("nightly", 7))
    assert not table.is_committed(("nightly", 8))
    assert run("7") == files
    assert (table.version, table.count()) == (5, 10)
    with pytest.raises(Exception, match="idempotencySequence must be a whole number"):
        run("eight")


def test_a_first_write_makes_the_table(spark: Any, table: Table, tmp_path: Path) -> None:
    uri = str(tmp_path / "new")
    frame = load(spark, table).select("id", "title", "vec").repartition(3)
    options = {"vectors": "vec=4", "partitionBy": "bucket(4, id), truncate(1, title)"}
    frame.write.format("lake").mode("append").options(**options).save(uri)
    made = lake.open(uri)
    assert (made.version, made.count()) == (2, 300)
    assert made.partitioning == ["bucket(4, id)", "truncate(1, title)"]
    assert made.schema.field("vec").type == pa.list_(pa.float32(), 4)
    assert made.search([0.5] * 4, 3).to_arrow().num_rows == 3
    frame.write.format("lake").mode("overwrite").options(**options).save(uri)
    assert (made.refresh().version, made.count()) == (3, 300)
    assert not made.verify().problems
    spark.range(0).write.format("lake").mode("append").save(str(tmp_path / "empty"))
    assert lake.open(str(tmp_path / "empty")).schema.names == ["id"]


def test_what_a_first_write_cannot_make_is_named_and_planning_makes_nothing(
    table: Table, tmp_path: Path
) -> None:
    from pyspark.sql.types import ArrayType, FloatType, LongType, StringType, StructType

    place = Place(str(tmp_path / "new"))
    frame = StructType().add("id", LongType()).add("title", StringType()).add("vec", ArrayType(FloatType()))
    for options, message in (
        ({"vectors": "vec"}, "option vectors says 'vec'"),
        ({"vectors": "vek=4"}, "names 'vek'"),
        ({"vectors": "title=4"}, "'title' has the type string"),
        ({"partitionBy": "bucket(4, prize)"}, "prize"),
    ):
        with pytest.raises(lake.InvalidInputError, match=message):
            NewTable.of(place, frame, shape_of(options))
    with pytest.raises(lake.NotFoundError, match="no branch 'new'"):
        NewTable.of(Place(place.uri, branch="new"), frame, shape_of({}))
    with pytest.raises(lake.InvalidInputError, match="is reserved"):
        NewTable.of(place, StructType().add("_row_id", LongType()), shape_of({}))
    made = NewTable.of(place, frame, shape_of({"vectors": "vec = 4"}))
    assert not Path(place.uri).exists()
    assert made.open().version == made.open().version == 1
    shape_of({"vectors": "vec=4"}).check(table)
    for options, message in (
        ({"vectors": "vec=5"}, "'vec' of the table is no vector of 5 components"),
        ({"partitionBy": "id"}, "the table is partitioned by"),
    ):
        with pytest.raises(lake.InvalidInputError, match=message):
            shape_of(options).check(table)


def test_a_task_that_fails_leaves_the_table_as_it_was(spark: Any, table: Table) -> None:
    def fail(batches: Any) -> Any:
        for number, batch in enumerate(batches):
            if number or batch.column("id")[0].as_py() > 0:
                raise RuntimeError("struck")
            yield batch

    broken = spark.range(0, 50, numPartitions=2).mapInArrow(fail, "id bigint")
    with pytest.raises(Exception, match="struck"):
        broken.write.format("lake").mode("append").save(table.uri)
    assert table.refresh().version == 4
    spark.range(3).write.format("lake").mode("append").save(table.uri)
    assert table.refresh().count() == 303
    assert not table.verify().problems


def test_a_killed_worker_is_replaced_and_nothing_doubles(spark: Any, table: Table, tmp_path: Path) -> None:
    mark = str(tmp_path / "killed")

    def die_once(batches: Any) -> Any:
        for batch in batches:
            try:
                os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                yield batch
            else:
                os._exit(9)

    frame = spark.range(0, 50, numPartitions=2).mapInArrow(die_once, "id bigint")
    frame.write.format("lake").mode("append").save(table.uri)
    assert os.path.exists(mark)
    assert (table.refresh().version, table.count()) == (5, 350)
    assert not table.verify().problems


def test_an_abort_after_the_commit_landed_harms_nothing(spark: Any, table: Table) -> None:
    """Spark calls abort with live files when a commit raises after it landed. spec: UPK-6"""
    from pyspark.sql.types import LongType, StructField, StructType

    from lake_connectors.spark.reading import place_of

    schema = StructType([StructField("id", LongType())])
    writer = _Writer(place_of({"path": table.uri}), schema, False, None)
    batch = pa.record_batch({"id": pa.array([900, 901])})
    messages: list[Any] = [writer.write(iter([batch])), None, writer.write(iter([]))]
    with pytest.raises(lake.InvalidInputError, match="a task reported nothing"):
        writer.commit(messages)
    writer.commit([messages[0], messages[2]])
    writer.abort(messages)
    table.refresh().compact()
    writer.abort(messages)
    assert table.count("id >= 900") == 2
    lost = writer.write(iter([batch]))
    before = {info.path for info in table.snapshot.store.list("data/")}
    assert isinstance(lost, _Written)
    writer.abort([lost])
    assert len({info.path for info in table.snapshot.store.list("data/")}) < len(before)
    assert not table.verify().problems


def test_a_column_computed_on_executors_touches_no_other_file(spark: Any, table: Table) -> None:
    def double(batch: pa.RecordBatch) -> pa.Array:
        return pa.array([None if n is None else n * 2 for n in batch.column("id").to_pylist()], pa.int64())

    before = {file["path"] for file in table.inspect.files().to_pylist()}
    lake_spark.add_column(spark, table.uri, "double", pa.int64(), double, inputs=["id"])
    table.refresh()
    assert table.version == 6, "one commit for the column, one for its values"
    assert {file["path"] for file in table.inspect.files().to_pylist()} > before
    found = table.scan(["id", "double"]).read_all().to_pydict()
    assert found["double"] == [2 * one for one in found["id"]]


def found(table: Table, queries: np.ndarray) -> list[int]:
    answer = table.search(queries, 10, select=["id"]).to_arrow()
    return answer.column("id").to_pylist()  # type: ignore[no-any-return]


def test_an_index_built_on_executors_answers_as_one_built_at_once(spark: Any, tmp_path: Path) -> None:
    """Executors encode and join; the driver trains and commits once. spec: IDX-14"""
    vectors, queries = clustered(5000, 24, queries=50)
    schema = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 24))])
    near, far = (lake.create(str(tmp_path / name), schema) for name in ("near", "far"))
    for start, stop in ((0, 1200), (1200, 2000), (2000, 5000)):
        values = pa.FixedSizeListArray.from_arrays(pa.array(vectors[start:stop].ravel()), 24)
        data = pa.table({"id": np.arange(start, stop), "vec": values}, schema=schema)
        near.append(data)
        far.append(data)
    near.create_index("vec", "cosine", name="ours")
    built = lake_spark.create_index(spark, far.uri, "vec", "cosine", name="ours")
    assert built.version == far.version + 1
    far.refresh()
    one, other = (table.snapshot.version.indexes[0] for table in (near, far))
    assert (one.name, one.kind, one.parameters) == (other.name, other.kind, other.parameters)
    assert found(near, queries) == found(far, queries)
    lake_spark.create_index(spark, far.uri, "vec", "cosine", name="ours", parallelism=2, shard_rows=2500)
    assert len(far.refresh().snapshot.version.indexes[0].shards) == 2
    exact = far.search(queries, 10, select=["id"], exact=True, metric="cosine").to_arrow()["id"].to_pylist()
    pairs = zip(np.reshape(found(far, queries), (-1, 10)), np.reshape(exact, (-1, 10)), strict=True)
    assert np.mean([len(np.intersect1d(mine, true)) for mine, true in pairs]) >= 9.5
    assert not far.verify().problems


def test_an_index_that_cannot_be_built_leaves_the_table_as_it_was(spark: Any, table: Table) -> None:
    with pytest.raises(lake.InvalidInputError, match="unknown index option 'probes'"):
        lake_spark.create_index(spark, table.uri, "vec", probes=3)
    with pytest.raises(lake.InvalidInputError, match="not a vector"):
        lake_spark.create_index(spark, table.uri, "price")
    with pytest.raises(lake.InvalidInputError, match="parts must be"):
        lake_spark.create_index(spark, table.uri, "vec", parallelism=0)
    table.append(rows(1000, 2000))
    bad = rows(5000, 1).to_pylist()
    table.append([bad[0] | {"vec": [0.0, float("inf"), 0.0, 0.0]}])
    with pytest.raises(Exception, match="row id 2300 of column 'vec'"):
        lake_spark.create_index(spark, table.uri, "vec")
    assert not table.refresh().snapshot.version.indexes
    assert not table.verify().problems
    table.delete("id = 5000")
    lake_spark.create_index(spark, table.uri, "vec")
    assert len(table.refresh().snapshot.version.indexes) == 1


def test_neighbours_in_sql_and_lateral(spark: Any, table: Table) -> None:
    table.create_index("vec")
    query = table.take([17], columns=["vec"]).column("vec")[0].as_py()
    literal = ", ".join(f"float({one})" for one in query)
    found = spark.sql(
        f"SELECT id, _distance FROM lake_knn(path => '{table.uri}', q => array({literal}), k => 5)"
    ).collect()
    expected = table.search(query, 5, select=["id"]).to_arrow().column("id").to_pylist()
    assert [row.id for row in found] == expected
    filtered = spark.sql(
        f"""SELECT * FROM lake_knn(path => '{table.uri}', q => array({literal}), k => 4,
            columns => 'id', filter => 'id >= 200')"""
    ).collect()
    assert len(filtered) == 4
    assert all(row.id >= 200 for row in filtered)
    load(spark, table).where("id < 3").createOrReplaceTempView("queries")
    joined = spark.sql(
        f"""SELECT a.id AS q, n.id FROM queries a,
            LATERAL lake_knn(path => '{table.uri}', q => a.vec, k => 1) n ORDER BY q"""
    ).collect()
    assert [(row.q, row.id) for row in joined] == [(0, 0), (1, 1), (2, 2)]


def test_a_join_with_nearest_rows(spark: Any, table: Table) -> None:
    queries = load(spark, table).where("id < 20").selectExpr("id AS q", "vec AS v")
    found = lake_spark.nearest_join(queries, table.uri, "v", 3, columns=["id", "title"]).collect()
    assert len(found) == 60
    for number in range(20):
        mine = sorted((row._distance, row.id) for row in found if row.q == number)
        vector = table.take([number], columns=["vec"]).column("vec")[0].as_py()
        expected = table.search(vector, 3, select=["id"]).to_arrow().column("id").to_pylist()
        assert [one for _, one in mine] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "99"}, "no version 99"),
        ({"version": "x"}, "whole number"),
        ({"tag": "nothing"}, "nothing"),
        ({"columns": "id,prize"}, "prize"),
        ({"colums": "id"}, "unknown option 'colums'"),
        ({"version": "2", "tag": "t"}, "not both"),
        ({"parallelism": "-3"}, "positive whole number"),
    ],
)
def test_mistakes_in_options_are_named(
    spark: Any, table: Table, options: dict[str, str], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        load(spark, table, **options).collect()
    assert load(spark, table).count() == 300


def test_mistakes_in_what_is_written_or_searched(spark: Any, table: Table, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="prize"):
        spark.range(2).withColumnRenamed("id", "prize").write.format("lake").mode("append").save(table.uri)
    for option in ("version", "columns"):
        with pytest.raises(Exception, match=f"writing knows no option '{option}'"):
            spark.range(2).write.format("lake").mode("append").option(option, "2").save(table.uri)
    for mode in ("ErrorIfExists", "Ignore"):  # Spark's own refusal, which says what to do
        with pytest.raises(Exception, match=f'in the "{mode}" mode. Please use either the "Append" or'):
            spark.range(2).write.format("lake").mode(mode.lower()).save(table.uri)
    for vector, message in (
        ("vex", "the queries have no column 'vex'"),
        ("id", "'id' of the queries has the type"),
    ):
        with pytest.raises(lake.InvalidInputError, match=message):
            lake_spark.nearest_join(spark.range(2), table.uri, vector)
    with pytest.raises(PySparkException, match="column 'vec' has dimension"):
        spark.sql(f"SELECT * FROM lake_knn(path => '{table.uri}', q => array(1f), k => 3)").collect()
    with pytest.raises(PySparkException, match="the table has no column 'prize'"):
        spark.sql(
            f"SELECT * FROM lake_knn(path => '{table.uri}', q => array(1f), k => 3, columns => 'prize')"
        ).collect()
    assert table.refresh().version == 4


def test_a_function_over_batches_gets_mapped_vectors(spark: Any, table: Table) -> None:
    """Rows do not pass through the JVM, nor are local vectors copied."""
    folder = str(Path(__file__).parent)

    def look(batches: Any) -> Any:
        import sys

        sys.path.insert(0, folder)
        from conformance.mapped import lies_in_mapped_file

        for batch in batches:
            mapped = lies_in_mapped_file(batch.column("vec"))
            yield pa.record_batch({"rows": pa.array([batch.num_rows]), "mapped": pa.array([mapped])})

    asked = {"columns": ["vec"]}
    some = lake_spark.map_batches(
        spark, table.uri, look, "rows bigint, mapped boolean", where="id >= 100", **asked
    )
    assert sum(row.rows for row in some.collect()) == 200
    whole = lake_spark.map_batches(spark, table.uri, look, "rows bigint, mapped boolean", **asked).collect()
    assert sum(row.rows for row in whole) == 300
    assert all(row.mapped for row in whole)


def test_vectors_become_lists_over_the_same_bytes() -> None:
    values = pa.array(np.arange(12, dtype=np.float32))
    batch = pa.record_batch({"vec": pa.FixedSizeListArray.from_arrays(values, 4)})
    shown = as_spark_batch(batch, TYPES.schema(batch.schema))
    assert shown.column("vec").values.buffers()[1].address == values.buffers()[1].address
    assert shown.column("vec").to_pylist() == batch.column("vec").to_pylist()
    with pytest.raises(lake.UnsupportedError, match="time64"):
        TYPES.declared(pa.time64("us"))


def test_jobs_from_plain_threads_of_one_session(spark: Any, tmp_path: Path) -> None:
    """Each registers for itself; one writes to a table of its own, all to one together."""
    failures: list[BaseException] = []

    def job(number: int) -> None:
        try:
            lake_spark.register(spark)
            own = str(tmp_path / f"own-{number}")
            frame = spark.range(number * 1000, number * 1000 + 10).coalesce(1)
            frame.write.format("lake").mode("append").save(own)
            frame.write.format("lake").mode("append").save(str(tmp_path / "shared"))
            assert spark.read.format("lake").load(own).count() == 10
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    lake.create(str(tmp_path / "shared"), pa.schema([("id", pa.int64())]))
    threads = [Thread(target=job, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = sorted(number * 1000 + one for number in range(3) for one in range(10))
    assert sorted(lake.open(str(tmp_path / "shared")).to_arrow().column("id").to_pylist()) == expected
