"""Every engine over the same tables: right answers, and what was pushed down counted at the store.

The suite, its tables and engines are in ``tests/conformance``. An engine under test must do what it claims, no less
and no more: a claim that became better is a claim to correct.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conformance import matrix, tables
from conformance.answers import agree, brute_force, exact, label, needs, same_rows
from conformance.engine import EngineUnderTest, Reached, Session, supported
from conformance.engines import ENGINES, load
from conformance.filters import FILTERS, ODD_FILTERS
from conformance.mistakes import MISTAKES, REACHING, Mistake, refused
from conformance.tables import Served
from lake_rows import query, rows
from samples import every_type
from values import normal, raw

import lake_format as lake

STREAMED = 8_000
"""Rows of a table that changes while it is read: several fragments, several batches each."""

EVERY = 5
"""A slow engine is asked every fifth filter in the normal run."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from tables.serving(str(tmp_path_factory.mktemp("conformance")))


@pytest.fixture(scope="module")
def items(served: Served) -> lake.Table:
    return tables.filled(served)


@pytest.fixture(scope="module")
def wide(served: Served) -> lake.Table:
    return tables.wide(served)


@pytest.fixture(scope="module")
def evolved(served: Served) -> lake.Table:
    return tables.evolved(served)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    return load(request.param)


def asked(engine: EngineUnderTest, filters: tuple[str, ...], config: pytest.Config) -> tuple[str, ...]:
    return filters[::EVERY] if engine.slow and "not long" in config.option.markexpr else filters


# --- what rows come back ---------------------------------------------------------------------------------------


def test_filters_select_what_the_engine_itself_selects(
    engine: EngineUnderTest, served: Served, items: lake.Table, pytestconfig: pytest.Config
) -> None:
    """spec: FILTER-1"""
    wanted = asked(engine, FILTERS, pytestconfig)
    if supported(engine, "odd filter"):
        wanted += asked(engine, ODD_FILTERS, pytestconfig)
    with closing(engine.open(served.reached("items"), items.to_arrow())) as session:
        for where in wanted:
            columns = ["id", "title", "cost"]
            found, expected = session.read(columns, where), session.copied(columns, where)
            if where in engine.differs:
                assert found.num_rows != expected.num_rows, f"{where} does not differ any more"
            else:
                same_rows(found, expected, where)


def test_every_type_comes_back_as_from_the_engines_own_copy(engine: EngineUnderTest, served: Served) -> None:
    """spec: SCH-8"""
    data = every_type(7)
    names = [name for name in data.column_names if engine.takes(data.schema.field(name).type)]
    data = data.select(names)
    name = f"types-{label(engine)}"
    served.create(name, data.schema).append(data)
    with closing(engine.open(served.reached(name), data)) as session:
        found, expected = session.read(names), session.copied(names)
        for name in names:
            one, other = (sorted(normal(raw(table.column(name))), key=repr) for table in (found, expected))
            assert one == other, data.schema.field(name)


def test_each_version_of_an_evolved_table(
    engine: EngineUnderTest, served: Served, evolved: lake.Table, pytestconfig: pytest.Config
) -> None:
    """spec: EVO-1"""
    needs(engine, "evolution")
    step = 4 if engine.slow and "not long" in pytestconfig.option.markexpr else 1
    for version in [*range(2, evolved.version, step), evolved.version]:
        expected = evolved.checkout(version).to_arrow()
        reached = served.reached("evolved", None if version == evolved.version else version)
        with closing(engine.open(reached, expected)) as session:
            same_rows(session.read(None), session.copied(expected.column_names), f"version {version}")
            cost = "cost" if "cost" in expected.column_names else "price"
            columns = [name for name in expected.column_names if name != "place"]
            for where in ("id >= 30 AND id < 60", f"{cost} > 12.5"):
                same_rows(session.read(columns, where), session.copied(columns, where), f"{version}: {where}")


def test_what_was_committed_since_is_seen_by_the_next_statement(
    engine: EngineUnderTest, served: Served
) -> None:
    needs(engine, "new rows")
    name = f"following-{label(engine)}"
    table = served.create(name, tables.EVOLVING).append(tables.evolving_rows(tables.EVOLVING, 0))
    with (
        closing(engine.open(served.local(name))) as session,
        closing(engine.open(served.local(name, table.version))) as pinned,
    ):
        assert session.read(["id"]).num_rows == 40
        table.append(tables.evolving_rows(table.schema, 40)).delete("id = 3")
        assert session.read(["id"]).num_rows == 79
        if supported(engine, "new columns"):
            table.add_column("stock", pa.int64(), lake.sql("id * 2")).drop_column("price")
            found = session.read(None, "id >= 10 AND id < 12")
            assert set(found.column_names) == set(table.schema.names)
            assert sorted(found.column("stock").to_pylist()) == [20, 22]
        assert pinned.read(["id"]).num_rows == 40


def test_rows_written_by_the_engine(engine: EngineUnderTest, served: Served) -> None:
    needs(engine, "append")
    name = f"written-{label(engine)}"
    table = served.create(name, tables.EVOLVING)
    new = tables.evolving_rows(tables.EVOLVING, 0)
    with closing(engine.open(served.local(name), new)) as session:
        session.append(new)
    assert table.refresh().version == 2, "one commit"
    same_rows(table.to_arrow(), new, "rows written")


# --- nearest neighbours ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [None, *FILTERS[::4]])
def test_the_nearest_rows(
    engine: EngineUnderTest, served: Served, items: lake.Table, where: str | None
) -> None:
    needs(engine, "knn" if where is None else "knn filter")
    with closing(engine.open(served.reached("items"), items.to_arrow())) as session:
        found = session.knn(query(1), 12, where)
        assert [distance for _, distance in found] == sorted(distance for _, distance in found)
        matching = session.copied(["id", "vec"], where)
        assert [one for one, _ in found] == brute_force(matching, query(1), 12)


@pytest.mark.parametrize("where", ODD_FILTERS)
def test_k_rows_come_back_whatever_the_engine_filters_itself(
    engine: EngineUnderTest, served: Served, items: lake.Table, where: str
) -> None:
    needs(engine, "knn odd filter")
    with closing(engine.open(served.reached("items"), items.to_arrow())) as session:
        expected = brute_force(session.copied(["id", "vec"], where), query(2), 9)
        assert [one for one, _ in session.knn(query(2), 9, where)] == expected
        if supported(engine, "order by"):
            assert session.ordered(query(2), 9, f"({where}) AND vec IS NOT NULL") == expected


def test_ordered_by_distance(engine: EngineUnderTest, served: Served, items: lake.Table) -> None:
    needs(engine, "order by")
    with closing(engine.open(served.reached("items"), items.to_arrow())) as session:
        for where in (None, "id < 300", "category = 'a'"):
            condition = "vec IS NOT NULL" if where is None else f"{where} AND vec IS NOT NULL"
            expected = brute_force(session.copied(["id", "vec"], where), query(3), 7)
            assert session.ordered(query(3), 7, condition) == expected


def test_neighbours_of_every_row_of_a_query(
    engine: EngineUnderTest, served: Served, items: lake.Table
) -> None:
    needs(engine, "knn join")
    vectors = [query(number) for number in range(5)]
    with closing(engine.open(served.reached("items"))) as session:
        assert session.joined(vectors, 4) == [exact(items, vector, 4) for vector in vectors]


# --- what reached the store ------------------------------------------------------------------------------------


def fetched(engine: EngineUnderTest, served: Served, ask: Any) -> tuple[int, int, Any]:
    """Bytes and data files that a question cost a session of its own, and the answer."""
    with closing(engine.open(served.reached("wide"))) as session:
        served.server.reset()
        answer = ask(session)
    data = [request for request in served.server.requests if "/data/" in request.key]
    return sum(request.sent for request in data), len({request.key for request in data}), answer


def everything(session: Session) -> int:
    return int(session.read(None).num_rows)


def test_pushdown_is_what_is_claimed(engine: EngineUnderTest, served: Served, wide: lake.Table) -> None:
    """spec: STAT-1"""
    questions: dict[str, Any] = {
        "projection": lambda session: session.read(["id"]).num_rows,
        "filter": lambda session: session.read(["id", "text"], "id >= 400 AND id < 800").num_rows,
        "limit": lambda session: session.read(None, limit=5).num_rows,
    }
    expected = {"projection": wide.count(), "filter": 400, "limit": 5}
    all_bytes, _, count = fetched(engine, served, everything)
    assert count == wide.count()
    for capability, ask in questions.items():
        if supported(engine, capability):
            some, _, answer = fetched(engine, served, ask)
            assert answer == expected[capability], capability
            pushed = engine.support[capability] == "pushed"
            assert not pushed or some < all_bytes / 3, (capability, some, all_bytes)


def test_searches_read_candidates_not_the_table(
    engine: EngineUnderTest, served: Served, wide: lake.Table
) -> None:
    vector = tables.wide_rows(3).column("vec")[7].as_py()
    all_bytes, _, _ = fetched(engine, served, lambda session: session.read(["id", "vec"]).num_rows)
    questions: dict[str, Any] = {
        "knn": lambda session: [one for one, _ in session.knn(vector, 10)],
        "knn filter": lambda session: [one for one, _ in session.knn(vector, 10, "id >= 1000 AND id < 3000")],
        "order by": lambda session: session.ordered(vector, 10),
    }
    for capability, ask in questions.items():
        if supported(engine, capability):
            some, _, found = fetched(engine, served, ask)
            where = "id >= 1000 AND id < 3000" if capability == "knn filter" else None
            agree(found, exact(wide, vector, 10, where))
            assert (some < all_bytes / 3) == (engine.support[capability] == "pushed"), (
                capability,
                some,
                all_bytes,
            )


def test_local_vectors_are_not_copied(engine: EngineUnderTest, served: Served, wide: lake.Table) -> None:
    """spec: VEC-1"""
    needs(engine, "mapped vectors")
    with closing(engine.open(Reached(wide.uri))) as session:
        assert session.maps_vectors() == (engine.support["mapped vectors"] == "pushed")


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mistaken(engine: EngineUnderTest, served: Served, items: lake.Table) -> Iterator[Session]:
    """The one session of an engine in which all mistakes are made."""
    with closing(engine.open(served.reached("items"), items.to_arrow())) as session:
        yield session


def usable(engine: EngineUnderTest, session: Session, items: lake.Table, *, asked: bool = True) -> None:
    """The session answers, from the table it had before; one that is not asked for the table from its own copy."""
    assert session.copied(["id"]).num_rows == 600
    if not asked:
        return
    assert session.read(["id"]).num_rows == items.count() == 600
    if supported(engine, "knn"):
        assert [one for one, _ in session.knn(query(1), 3)] == exact(items, query(1), 3)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_mistakes_are_named_in_the_engines_own_errors_and_leave_the_session_usable(
    engine: EngineUnderTest,
    mistaken: Session,
    items: lake.Table,
    mistake: Mistake,
    pytestconfig: pytest.Config,
) -> None:
    if not mistake.may_be_made(engine):
        pytest.skip(f"{engine.name} has no such thing")
    with refused(engine, engine.words.get(mistake.name, mistake.says)):
        mistake.ask(mistaken)
    some = MISTAKES[::EVERY] if engine.slow and "not long" in pytestconfig.option.markexpr else MISTAKES
    usable(engine, mistaken, items, asked=mistake in some)


def test_what_cannot_be_reached_is_named_and_the_session_keeps_what_it_had(
    engine: EngineUnderTest, served: Served, mistaken: Session, items: lake.Table
) -> None:
    odd_store = {**served.reached("items").storage_options, "probes": "1"}
    attempts: list[tuple[str, Callable[[], object]]] = [
        (r"no table at \S*nowhere", lambda: mistaken.attach(served.reached("nowhere"))),
        (r"items has no version 99", lambda: mistaken.attach(served.reached("items", 99))),
        (r"(argument|option) 'probes'", lambda: mistaken.attach_with(probes=1)),
        (r"unknown storage option 'probes'", lambda: mistaken.attach_with(storage_options=odd_store)),
    ]
    for says, attempt in attempts:
        with refused(engine, says, *REACHING):
            attempt()
        usable(engine, mistaken, items, asked=not engine.slow)
    usable(engine, mistaken, items)


def test_a_type_the_engine_lacks_is_refused_by_name(
    engine: EngineUnderTest,
    served: Served,
    mistaken: Session,
    items: lake.Table,
    pytestconfig: pytest.Config,
) -> None:
    lacking = [one for one in every_type(3).schema if not engine.takes(one.type)]
    step = EVERY if engine.slow and "not long" in pytestconfig.option.markexpr else 1
    for number, one in enumerate(lacking[::step]):
        name = f"lacking-{label(engine)}-{number}"
        served.create(name, pa.schema([("id", pa.int64()), one]))
        with refused(engine, re.escape(str(one.type)), *REACHING):
            mistaken.attach(served.reached(name))
        usable(engine, mistaken, items, asked=not engine.slow)
    usable(engine, mistaken, items)


@pytest.mark.parametrize("whole", [False, True], ids=["its files", "all of it"])
def test_a_table_removed_while_it_is_attached(engine: EngineUnderTest, served: Served, whole: bool) -> None:
    name, kept = (f"{one}-{whole}-{label(engine)}" for one in ("removed", "kept"))
    for one in (name, kept):
        served.create(one, tables.EVOLVING).append(tables.evolving_rows(tables.EVOLVING, 0))
    with closing(engine.open(served.reached(name))) as session:
        store = lake.open(f"{served.folder}/{name}").snapshot.store
        files = [info.path for info in store.list("data/")]
        for path in [info.path for info in store.list("")] if whole else files:
            store.delete(path)
        gone = "|".join(map(re.escape, files)) + rf"|no table at \S*{name}"
        for _ in range(2):
            with refused(engine, gone, lake.NotFoundError):
                session.read(None)
        session.attach(served.reached(kept))
        assert session.read(["id"]).num_rows == 40


def changed_rows(table: lake.Table) -> None:
    table.delete("id % 2 = 0")
    table.update({"name": "changed"}, "id % 3 = 0")
    table.append(tables.evolving_rows(table.schema, 90_000))


def changed_columns(table: lake.Table) -> None:
    table.drop_column("name")
    table.add_column("name", pa.int64())
    table.rename_column("price", "cost")


def removed_files(table: lake.Table) -> None:
    table.delete("id % 2 = 0")
    table.compact()
    table.expire_versions()
    table.collect_garbage(dry_run=False, grace=timedelta(0))


def dropped_and_made_anew(table: lake.Table) -> None:
    shutil.rmtree(table.uri)
    lake.create(table.uri, tables.EVOLVING).append(tables.evolving_rows(tables.EVOLVING, 500_000, 10))


@pytest.mark.parametrize("change", [changed_rows, changed_columns, removed_files, dropped_and_made_anew])
def test_a_table_that_changes_while_it_is_read(
    engine: EngineUnderTest, served: Served, change: Callable[[lake.Table], None]
) -> None:
    """A stream holds one version to its end, or ends with an error where its files are gone; never a mixture."""
    name = f"{change.__name__}-{label(engine)}"
    table = served.create(name, tables.EVOLVING)
    for start in range(0, STREAMED, STREAMED // 8):
        table.append(tables.evolving_rows(tables.EVOLVING, start, STREAMED // 8))
    before = {info.path for info in table.snapshot.store.list("data/")}
    with closing(engine.open(served.local(name))) as session:
        stream = session.stream(["id", "name"])
        found = [next(stream)]
        change(lake.open(table.uri))
        gone = before - {info.path for info in table.snapshot.store.list("data/")}
        failure = None
        try:
            found.extend(stream)
        except (*engine.errors, OSError) as error:  # OSError: of pyarrow, where it reads the engine's stream
            failure = error
        if failure is None:
            read = pa.concat_tables(found).sort_by("id")
            expected = tables.evolving_rows(tables.EVOLVING, 0, STREAMED)
            assert read.column("id").to_pylist() == expected.column("id").to_pylist()
            assert read.column("name").to_pylist() == expected.column("name").to_pylist()
        else:
            assert engine.owns(failure) or isinstance(failure, OSError), repr(failure)
            lost = [
                *map(re.escape, gone),
                rf"version 9 of \S*{name} has expired",
                rf"{name} has no version 9",
            ]
            assert re.search("|".join(lost), str(failure)), str(failure)
        assert session.read(["id"]).num_rows == lake.open(table.uri).count()


def test_the_support_matrix_is_what_the_engines_claim() -> None:
    assert matrix.PAGE.read_text() == matrix.page(), "write it anew: cd tests && python -m conformance.matrix"


def test_the_odd_rows_are_odd() -> None:
    """The tables this suite rests on hold what makes filters go wrong."""
    table = rows(0, 200)
    assert all(
        table.column(name).null_count for name in ("price", "title", "category", "flag", "cost", "vec")
    )
    assert np.isnan(table.column("price").drop_null().to_numpy()).any()
