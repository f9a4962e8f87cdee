"""DataFusion over tables: what is pushed down, searches in every shape of statement, and mistakes.

That plain reads and searches are right is the business of ``test_conformance``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datafusion_lake import FLOATS, Lake, attached
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from lake_rows import DIMENSION, condition_trees, filled_table, query

import lake_format as lake
from lake_connectors.datafusion import connect


@pytest.fixture(scope="module")
def items() -> Lake:
    return attached(filled_table("memory://datafusion-tests"))


CONDITIONS = [
    "id < 300",
    "category NOT IN ('a', 'b', 'x', 'y', 'z')",
    "category IN ('a', 'b', 'x', 'y', 'z', NULL)",
    "NOT (category IN ('a', 'b', 'c', 'd', NULL))",
    "price > 5",
    "NOT price >= 5",
    "weight <= 0",
    "title LIKE '%x%'",
    "small = 2",
    "flag",
    "vec IS NOT NULL",
]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    condition=condition_trees(CONDITIONS, 4),
    k=st.integers(1, 40),
)
def test_any_filters_plain_and_below_a_search(items: Lake, condition: str, k: int) -> None:
    assume(items.can_push(condition))
    items.same(f"SELECT id FROM items WHERE {condition}")
    sql = f"SELECT id FROM items WHERE {condition} ORDER BY array_distance(vec, $q), id LIMIT {k}"
    expected = [one for (one,) in items.same(sql, ordered=True, q=pa.scalar(query(4), FLOATS))]
    found = items.rows(
        f"SELECT id FROM knn('items', $q, {k}) WHERE {condition}", q=pa.scalar(query(4), FLOATS)
    )
    with_vector = items.table.to_arrow().column("vec").is_valid().to_pylist()
    assert sorted(one for (one,) in found) == sorted(one for one in expected if with_vector[one])


SEARCHES = [
    "SELECT id FROM items ORDER BY array_distance(vec, $q) LIMIT 5",
    "SELECT id, array_distance(vec, $q) AS d FROM items ORDER BY d LIMIT 5",
    "SELECT id FROM items ORDER BY array_distance($q, vec) LIMIT 5 OFFSET 3",
    "SELECT i.id FROM items i WHERE i.id > 50 ORDER BY list_distance(i.vec, $q) LIMIT 4",
    "SELECT id FROM items ORDER BY cosine_distance(vec, $q) LIMIT 5",
    "SELECT id FROM items WHERE vec IS NOT NULL ORDER BY inner_product(vec, $q) DESC NULLS LAST LIMIT 5",
    "SELECT id FROM (SELECT id, vec FROM items WHERE lower(title) = 'x') ORDER BY array_distance(vec, $q) LIMIT 9",
    "WITH near AS (SELECT id FROM items ORDER BY array_distance(vec, $q) LIMIT 7) SELECT count(*) FROM near",
    "SELECT category, count(*) FROM (SELECT * FROM items ORDER BY array_distance(vec, $q) LIMIT 30) GROUP BY 1",
    "SELECT id FROM items ORDER BY array_distance(vec, $q), title LIMIT 6",
]
LEFT = [
    "SELECT id FROM items WHERE vec IS NOT NULL ORDER BY array_distance(vec, $q) DESC LIMIT 5",
    "SELECT id FROM items ORDER BY array_distance(vec, $q) ASC NULLS FIRST, id LIMIT 20",
    "SELECT DISTINCT category FROM items ORDER BY category LIMIT 2",
    "SELECT a.id FROM items a JOIN items b ON a.id = b.id ORDER BY array_distance(a.vec, $q) LIMIT 5",
    "SELECT category, min(array_distance(vec, $q)) AS d FROM items GROUP BY 1 ORDER BY d LIMIT 2",
]


@pytest.mark.parametrize("sql", SEARCHES)
def test_searches_are_recognised_and_the_same(items: Lake, sql: str) -> None:
    items.same(sql, q=pa.scalar(query(2), FLOATS))
    assert any(one.nearest is not None for one in items.seen), "the table was scanned"


@pytest.mark.parametrize("sql", LEFT)
def test_other_statements_are_left_alone_and_the_same(items: Lake, sql: str) -> None:
    parameters = {"q": pa.scalar(query(2), FLOATS)} if "$q" in sql else {}
    items.same(sql, **parameters)
    assert all(one.nearest is None for one in items.seen)


def test_rows_without_a_vector_fill_up_the_limit(items: Lake) -> None:
    items.same(
        "SELECT id FROM items WHERE id < 90 ORDER BY array_distance(vec, $q), id LIMIT 200",
        ordered=True,
        q=pa.scalar(query(), FLOATS),
    )


def test_conditions_that_datafusion_finds_to_be_constant(items: Lake) -> None:
    never = "category NOT IN ('a', 'b', 'x', 'y', 'z') AND category IN ('a', 'b', 'x', 'y', 'z', NULL)"
    assert items.same(f"SELECT id FROM items WHERE {never}") == []
    assert items.same("SELECT id FROM items WHERE id = 3 AND 1 = 1") == [(3,)]
    assert items.same("SELECT id FROM items WHERE false") == []


@pytest.mark.parametrize("condition", ["place.city <> 'Rome' OR place.city = ''", "place.zip IS NOT NULL"])
def test_members_of_a_struct_that_is_null_are_null(items: Lake, condition: str) -> None:
    found = items.same(f"SELECT id FROM items WHERE {condition} OR id = 0")
    places = items.table.to_arrow().column("place").to_pylist()
    assert None in places
    assert all(one == 0 or places[one] is not None for (one,) in found)


def test_columns_and_predicates_reach_the_table(items: Lake) -> None:
    items.rows("SELECT title FROM items WHERE id BETWEEN 5 AND 9 AND category = 'a'")
    (seen,) = items.seen
    assert set(seen.columns) == {"title"}
    assert seen.predicates == ("id >= 5", "id <= 9", "category = 'a'")
    items.rows("SELECT count(*) FROM items")
    assert all(one.columns == () for one in items.seen)


def test_filters_on_distance_and_row_id(items: Lake) -> None:
    every = items.rows("SELECT id, _distance FROM knn('items', $q, 30)", q=pa.scalar(query(), FLOATS))
    near = items.rows(
        "SELECT id FROM knn('items', $q, 30) WHERE _distance < $d",
        q=pa.scalar(query(), FLOATS),
        d=pa.scalar(every[9][1], pa.float32()),
    )
    assert sorted(near) == sorted((one,) for one, distance in every if distance < every[9][1])
    found = items.rows(
        "SELECT _row_id FROM knn('items', $q, 5) WHERE _row_id >= 400", q=pa.scalar(query(), FLOATS)
    )
    assert len(found) == 5
    assert all(one >= 400 for (one,) in found)


def test_several_searches_in_one_statement(items: Lake) -> None:
    one, other = (
        [row for (row,) in items.rows("SELECT id FROM knn('items', $q, 9) WHERE title LIKE '%x%'", q=vector)]
        for vector in (pa.scalar(query(1), FLOATS), pa.scalar(query(2), FLOATS))
    )
    both = items.rows(
        """SELECT 1 AS q, id FROM knn('items', $a, 9) WHERE title LIKE '%x%'
        UNION ALL SELECT 2 AS q, id FROM knn('items', $b, 9) WHERE title LIKE '%x%'""",
        a=pa.scalar(query(1), FLOATS),
        b=pa.scalar(query(2), FLOATS),
    )
    assert sorted(both) == sorted([*((1, row) for row in one), *((2, row) for row in other)])


def test_a_join_chooses_among_the_neighbours(items: Lake) -> None:
    near = {row for (row,) in items.rows("SELECT id FROM knn('items', $q, 20)", q=pa.scalar(query(), FLOATS))}
    joined = items.rows(
        "SELECT k.id FROM knn('items', $q, 20) k JOIN copied c ON k.id = c.id WHERE c.small = 2",
        q=pa.scalar(query(), FLOATS),
    )
    small = items.table.to_arrow().column("small").to_pylist()
    assert {row for (row,) in joined} == {row for row in near if small[row] == 2}
    # What an equality says of the neighbours themselves is a filter of theirs: it applies before the search.
    even = "SELECT k.id FROM knn('items', $q, 20) k JOIN copied c ON k.id = c.id WHERE c.id % 2 = 0"
    found = items.rows(even, q=pa.scalar(query(), FLOATS))
    assert len(found) == 20
    assert all(row % 2 == 0 for (row,) in found)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM knn('items', $q, $k)",
        "SELECT id FROM knn ( 'items' , $q , 5 )",
        "SELECT id, $k AS k FROM knn('items', $q, $k)",
        "SELECT id, $q IS NULL AS missing FROM knn('items', $q, $k)",
        "SELECT id, '$q' AS q FROM knn('items', $q, 5)",
        "SELECT id FROM knn('items', $q, 5) ORDER BY array_distance(vec, $q)",
        "SELECT a.id FROM knn('items', $q, 5) a JOIN knn('items', $q, 5) b ON a.id = b.id ORDER BY a._distance",
        "SELECT id FROM knn('items', $q, 5) -- the vector is $q",
    ],
)
def test_a_vector_may_stand_anywhere_beside_knn(items: Lake, sql: str) -> None:
    wanted = items.table.search(query(), k=5).to_arrow().column("id").to_pylist()
    found = items.rows(sql, q=query(), **({"k": 5} if "$k" in sql else {}))
    assert [row[0] for row in found] == wanted


def test_a_frame_may_be_collected_again_and_built_upon(items: Lake) -> None:
    sql = "SELECT id FROM items ORDER BY array_distance(vec, $q) LIMIT 5"
    frame = items.ctx.sql(sql, param_values={"q": query()})
    assert frame.to_pydict() == frame.to_pydict()
    assert frame.count() == 5


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM knn('items', [1.0, 2.0], 3)", "column 'vec' has dimension 6"),
        ("SELECT * FROM knn('nothing', [1.0], 3)", "no lake table 'nothing'"),
        ("SELECT * FROM knn('items', [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0)", "k must be"),
        ("SELECT * FROM knn('items', [1, 2, 3, 4, 5, 6], 3, 'title')", "title"),
        ("SELECT * FROM knn('items', [1, 2, 3, 4, 5, 6], 3, 'vec', 'hamming')", "hamming"),
        ("SELECT * FROM knn('items', [1, 2, 3, 4, 5, NULL], 3)", "holds a NaN"),
        (
            "SELECT k.* FROM items i, knn('items', i.vec, 3) k",
            r"vector must be a constant or a parameter, not .*i\.vec",
        ),
        ("SELECT * FROM knn('items', $missing, 3)", "missing"),
        ("SELECT no_such FROM items", "no_such"),
    ],
)
def test_mistakes_name_what_is_wrong(items: Lake, sql: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        items.ctx.sql(sql).collect()
    assert items.ctx.sql("SELECT count(*) AS n FROM items").to_pydict() == {"n": [600]}


def test_vectors_are_constants_only(items: Lake) -> None:
    literal = ", ".join(str(one) for one in query(1))
    assert items.rows(f"SELECT id FROM knn('items', [{literal}], 5)") == items.rows(
        "SELECT id FROM knn('items', $q, 5)", q=pa.scalar(query(1), FLOATS)
    )
    assert items.rows(f"SELECT id FROM knn('items', '[{literal}]', 5)")


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_distance_functions_are_the_distances(items: Lake, data: st.DataObject) -> None:
    numbers = st.integers(-4, 4).map(lambda one: one / 2)
    vectors = st.none() | st.lists(numbers, min_size=3, max_size=3)
    pairs = data.draw(st.lists(st.tuples(vectors, vectors), min_size=1, max_size=9))
    if data.draw(st.booleans()):
        pairs = [(one, [1.0, -0.5, 2.0]) for one, _ in pairs]
    table = pa.table(
        {"a": pa.array([a for a, _ in pairs], FLOATS), "b": pa.array([b for _, b in pairs], FLOATS)}
    )
    ctx = connect()
    ctx.from_arrow(table, "t")
    found = ctx.sql(
        "SELECT lake_l2_distance(a, b) AS l2, lake_cosine_distance(a, b) AS cosine,"
        " lake_negative_inner_product(a, b) AS ip FROM t"
    ).to_pydict()
    for place, (a, b) in enumerate(pairs):
        if a is None or b is None:
            assert [found[name][place] for name in ("l2", "cosine", "ip")] == [None] * 3
            continue
        one, other = np.array(a), np.array(b)
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        assert found["l2"][place] == pytest.approx(np.linalg.norm(one - other), abs=1e-6)
        assert found["ip"][place] == pytest.approx(-(one @ other), abs=1e-6)
        cosine = 1 - one @ other / lengths if lengths else np.nan
        assert found["cosine"][place] == pytest.approx(cosine, abs=1e-6, nan_ok=True)


def test_a_distance_function_orders_by_the_index_and_takes_vectors_of_a_table(items: Lake) -> None:
    sql = "SELECT id FROM items WHERE vec IS NOT NULL ORDER BY {}(vec, $q) LIMIT 5"
    own = items.rows(sql.format("lake_l2_distance"), q=pa.scalar(query(), FLOATS))
    assert any(one.nearest is not None for one in items.seen)
    assert own == items.rows(sql.format("array_distance"), q=pa.scalar(query(), FLOATS))
    with pytest.raises(Exception, match="length"):
        items.ctx.sql("SELECT lake_l2_distance(vec, [1.0, 2.0]) FROM items").collect()


def test_a_folder_of_tables(tmp_path: Path) -> None:
    small = pa.schema([("id", pa.int64()), ("vec", pa.list_(pa.float32(), 2))])
    ctx = connect().attach_folder(tmp_path, "shop")
    lake.create(str(tmp_path / "hats"), small).append([{"id": 1, "vec": [0, 1]}, {"id": 2, "vec": [5, 5]}])
    assert ctx.sql("SELECT id FROM shop.hats ORDER BY id").to_pydict() == {"id": [1, 2]}
    assert ctx.sql("SELECT id FROM knn('shop.hats', [5, 4], 1)").to_pydict() == {"id": [2]}
    lake.create(str(tmp_path / "shoes"), small)
    assert ctx.sql("SELECT count(*) AS n FROM shop.shoes").to_pydict() == {"n": [0]}
    with pytest.raises(Exception, match="nothing"):
        ctx.sql("SELECT * FROM shop.nothing")


def test_attaching(items: Lake, tmp_path: Path) -> None:
    ctx = connect().attach("memory://datafusion-tests", version=2)
    assert ctx.sql('SELECT count(*) AS n FROM "datafusion-tests"').to_pydict() == {"n": [200]}
    ctx.attach(items.table, "items").attach(items.table, "items")
    ctx.from_pydict({"a": [1, 2]}, "mine")
    joined = "SELECT count(*) AS n FROM items JOIN mine ON items.id = mine.a"
    assert ctx.sql(joined).to_pydict() == {"n": [2]}
    ctx.detach("items")
    with pytest.raises(lake.NotFoundError, match="items"):
        ctx.detach("items")
    with pytest.raises(lake.InvalidInputError, match="goes with a URI"):
        ctx.attach(items.table, version=2)
    with pytest.raises(lake.NotFoundError, match="no table"):
        ctx.attach(str(tmp_path / "nowhere"))


def test_a_large_search_finds_what_it_should() -> None:
    random = np.random.default_rng(5)
    schema = pa.schema([("id", pa.int64()), ("kind", pa.string()), ("vec", pa.list_(pa.float32(), 16))])
    vectors = random.standard_normal((24_000, 16)).astype(np.float32)
    table = lake.create("memory://datafusion-large", schema)
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16)
    kinds = pa.array([f"kind {one % 50}" for one in range(24_000)])
    table.append(pa.table({"id": pa.array(range(24_000)), "kind": kinds, "vec": values}, schema=schema))
    table.create_index("vec")
    ctx = connect().attach(table, "large")
    wanted = vectors[77] + np.float32(0.01)
    found = ctx.sql(
        "SELECT id FROM knn('large', $q, 10) WHERE kind LIKE '%7'", param_values={"q": wanted.tolist()}
    ).to_pydict()["id"]
    matching = np.array([one for one in range(24_000) if one % 50 % 10 == 7])
    nearest = matching[np.argsort(np.linalg.norm(vectors[matching] - wanted, axis=1))[:10]]
    assert len(found) == 10
    assert len(set(found) & set(nearest.tolist())) >= 9
    assert DIMENSION != 16  # the two tables differ, so that one cannot stand in for the other


def test_a_filter_that_stays_with_the_engine_leaves_k_rows_of_every_search() -> None:
    random = np.random.default_rng(0)
    schema = pa.schema([("id", pa.int64()), ("title", pa.string()), ("vec", pa.list_(pa.float32(), 16))])
    centres = random.normal(size=(200, 16))
    drawn = centres[random.integers(0, 200, 5_150)] + 0.7 * random.normal(size=(5_150, 16))
    vectors, queries = np.split(drawn.astype(np.float32), [5_000])
    titles = pa.array([f"{'re' if one < 0.2 else 'un'}view" for one in random.random(5_000)])
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 16)
    table = lake.create("memory://datafusion-residual", schema)
    table.append(pa.table({"id": pa.array(range(5_000)), "title": titles, "vec": values}, schema=schema))
    table.create_index("vec")
    ctx = connect().attach(table, "items")
    for number, vector in enumerate(
        queries
    ):  # one in twenty showed that two searches differ in what they find
        asked = pa.scalar(vector.tolist(), FLOATS)
        sql = "SELECT id, title, _distance FROM knn('items', $q, 10) WHERE title LIKE 're%'"
        found = ctx.sql(sql, param_values={"q": asked}).to_arrow_table()
        assert found.num_rows == 10, f"query {number} finds {found.num_rows} rows"
        assert set(found.column("title").to_pylist()) == {"review"}
