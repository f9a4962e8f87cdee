"""Every engine over an imported Iceberg table: the rows pyiceberg reads, neighbours and an index over them.

The rest of the suite is test_conformance.py.
"""

from __future__ import annotations

import re
from contextlib import closing

import numpy as np
import pytest
from conformance.answers import agree, brute_force, exact, needs, same_rows
from conformance.engine import EngineUnderTest, Reached, supported
from conformance.engines import ENGINES, load
from conformance.imported import DIMENSION, Imported, imported
from conformance.mistakes import REACHING, refused

QUERY = np.random.default_rng(7).standard_normal(DIMENSION).tolist()
WHERE = "id >= 150 AND id < 450"


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return imported(tmp_path_factory.mktemp("iceberg"))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    return load(request.param)


def test_an_imported_table_is_what_iceberg_says(engine: EngineUnderTest, items: Imported) -> None:
    needs(engine, "imported")
    expected = items.rows
    assert expected.num_rows == items.table.count() > 500
    with closing(engine.open(items.reached(), expected)) as session:
        same_rows(session.read(None), session.copied(expected.column_names), "everything")
        columns = [name for name in expected.column_names if name != "place"]
        for where in (WHERE, "cost > 50"):
            same_rows(session.read(columns, where), session.copied(columns, where), where)
        location = re.escape(items.source.location().removeprefix("file://"))
        with refused(engine, f"{location}.*allow_external", *REACHING):
            session.attach(Reached(items.table.uri))
            session.read(None)
        session.attach(items.reached())
        same_rows(session.read(None), expected, "after the refusal")


@pytest.mark.parametrize("indexed", [False, True])
def test_neighbours_in_an_imported_table(
    engine: EngineUnderTest, items: Imported, indexed: bool, pytestconfig: pytest.Config
) -> None:
    needs(engine, "imported")
    needs(engine, "knn")
    if engine.slow and not indexed and "not long" in pytestconfig.option.markexpr:
        pytest.skip("the normal run asks a slow engine once")
    table = items.table.refresh()
    if indexed and not table.inspect.indexes().num_rows:
        table.create_index("vec", metric="l2")
    rows = items.rows
    with closing(engine.open(items.reached(), rows)) as session:
        for where in (None, WHERE):
            matching = session.copied(["id", "vec"], where)
            agree([one for one, _ in session.knn(QUERY, 10, where)], brute_force(matching, QUERY, 10))
        if supported(engine, "order by"):
            agree(
                session.ordered(QUERY, 10, "vec IS NOT NULL"),
                brute_force(rows.select(["id", "vec"]), QUERY, 10),
            )
        if supported(engine, "knn join"):
            (found,) = session.joined([QUERY], 10)
            agree(found, exact(table, QUERY, 10))


def test_later_snapshots_are_seen_by_the_next_statement(engine: EngineUnderTest, items: Imported) -> None:
    needs(engine, "imported")
    with closing(engine.open(items.reached())) as session:
        before = session.read(["id"]).num_rows
        start = 1000 * (2 + items.table.version)
        items.go_on(start)
        assert session.read(["id"]).num_rows == before + 19
        found = session.read(["id"], f"id >= {start} AND id < {start + 20}").column("id").to_pylist()
        assert sorted(found) == list(range(start + 1, start + 20))
