"""Merging a branch, pair by pair: what goes together does, by reference; what does not is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest
from merging_samples import SCHEMA, content, pair, row_ids, rows, store
from samples import bare_version

import lake_format as lake
from lake_format import merge_plan
from lake_format.errors import ConflictError, LakeError, NotFoundError, UnsupportedError
from lake_format.lines import LINE_IDS, BranchEntry
from lake_format.operation_record import OperationRecord
from lake_format.row_runs import RowRuns
from lake_format.store import Store

__all__ = ["pair", "store"]  # fixtures

NOW = timedelta(0)
Job = Callable[[lake.Table], object]


@pytest.fixture(params=["auto"])
def lines(store: Store, request: pytest.FixtureRequest) -> tuple[lake.Table, lake.Table]:
    """Main and a branch of it, with ids 0 to 19 in two fragments; updates are written in every way there is."""
    main = lake.create("unused", SCHEMA, store=store).append(rows(0, 10)).append(rows(10, 10))
    main.set_properties({"write.update-strategy": request.param})
    return main, main.create_branch("b")


# --- what goes together -------------------------------------------------------------------------------------


def append(table: lake.Table) -> object:
    return table.append(rows(100, 3))


def append_others(table: lake.Table) -> object:
    return table.append(rows(200, 3))


def delete(table: lake.Table) -> object:
    return table.delete("id in (3, 4, 13)")


def update_a(table: lake.Table) -> object:
    return table.update({"a": 1000}, where="id in (4, 5, 14)")


def update_b(table: lake.Table) -> object:
    return table.update({"b": 2000}, where="id in (4, 5, 15)")


def update_others(table: lake.Table) -> object:
    return table.update({"a": 3000}, where="id in (6, 16)")


def compact(table: lake.Table) -> object:
    return table.compact()


def update_and_compact(table: lake.Table) -> object:
    update_a(table)
    return compact(table)


def upsert(table: lake.Table) -> object:
    return table.upsert(
        pa.concat_tables([rows(7), rows(300)]).set_column(1, "a", pa.array([7000, 7001])), on="id"
    )


PAIRS: list[tuple[Job, Job]] = [
    (append, append_others),
    (append, delete),
    (delete, append),
    (delete, delete),
    (delete, update_a),
    (update_a, delete),
    (update_a, update_b),
    (update_a, update_others),
    (update_a, compact),
    (delete, compact),
    (compact, update_a),
    (compact, compact),
    (update_and_compact, update_b),
    (update_and_compact, compact),
    (update_b, update_and_compact),
    (upsert, update_a),
    (upsert, compact),
]
"""What is done on the branch, and on main."""
STRATEGIES = ["patch", "move", "rewrite"]
EVERY_PAIR = [
    pytest.param(strategy, *pair, marks=() if at % 3 == way else pytest.mark.long)
    for at, pair in enumerate(PAIRS)
    for way, strategy in enumerate(STRATEGIES)
]
"""In a normal run each pair with one way to write updates, in a long one with all."""


@pytest.mark.parametrize(
    ("lines", "mine", "theirs"),
    EVERY_PAIR,
    indirect=["lines"],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_merge_is_what_one_after_the_other_is(
    lines: tuple[lake.Table, lake.Table], mine: Job, theirs: Job
) -> None:
    """Main's work and then the branch's, rows under the ids they have there. spec: CON-11, BRA-14, BRA-15, BRA-16"""
    main, branch = lines
    alone = main.create_branch("one-after-the-other")
    for table in (alone, main):
        theirs(table)
    mine(branch)
    own = row_ids(branch)
    if mine is not compact:
        mine(alone)
    main.merge_branch("b")
    assert content(main, "a", "b", "v") == content(alone, "a", "b", "v")
    both = row_ids(main).keys() & own.keys()
    assert {one: row_ids(main)[one] for one in both} == {one: own[one] for one in both}
    assert main.verify().ok
    version = main.version
    assert main.merge_branch("b").version == version
    assert main.snapshot.version.next_row_id < LINE_IDS


def test_upkeep_alone_is_nothing_to_merge(pair: tuple[lake.Table, lake.Table]) -> None:
    """Tags, properties and upkeep stay on the branch. spec: CON-11"""
    main, branch = pair
    branch.set_properties({"user.x": "1"})
    branch.tag("t")
    branch.compact()
    version = main.version
    assert main.merge_branch("b").version == version
    main.append(rows(100))
    branch.append(rows(200))
    main.merge_branch("b")
    assert main.properties.get("user.x") is None
    assert sorted(main.inspect.files()["rows"].to_pylist()) == [1, 1, 1, 1, 10, 10, 10, 10]
    assert main.verify().ok


@pytest.mark.parametrize("lines", STRATEGIES, indirect=True)
def test_merging_again_takes_what_is_new(lines: tuple[lake.Table, lake.Table]) -> None:
    """Both go on; rows merged before are changed, moved and deleted on either side. spec: CON-11, BRA-14, IDN-12"""
    main, branch = lines
    branch.append(rows(200, 5))
    branch.update({"a": 1}, where="id in (1, 200)")
    main.merge_branch("b")
    record = main.snapshot.version
    assert record.merges == {1: branch.version}
    assert [one["kind"] for one in record.operations] == ["append", "update"]
    main.update({"b": 2}, where="id in (1, 201)")
    main.delete("id = 202")
    branch.update({"a": 3}, where="id in (1, 201, 202)")
    branch.delete("id = 203")
    main.compact()
    branch.compact()
    branch.append(rows(210))
    main.merge_branch("b")
    found = content(main, "a", "b")
    assert {one: found.get(one) for one in (1, 200, 201, 202, 203, 204, 210)} == {
        1: (3, 2),
        200: (1, 200),
        201: (3, 2),
        202: None,
        203: None,
        204: (204, 204),
        210: (210, 210),
    }
    main.append(rows(220))
    main.update({"a": 9}, where="id = 204")
    branch.update({"a": 9}, where="id = 204")
    with pytest.raises(ConflictError, match="'a'"):
        main.merge_branch("b")
    assert main.verify().ok


def test_a_branch_of_a_branch_goes_up_step_by_step(pair: tuple[lake.Table, lake.Table], store: Store) -> None:
    """What is being merged into a branch is held meanwhile, and let go. spec: BRA-12, BRA-17, IDN-3"""
    main, outer = pair
    inner = outer.append(rows(100)).create_branch("inner")
    inner.append(rows(200))
    inner.update({"a": 5}, where="id = 100")
    outer.update({"b": 6}, where="id = 100")
    with pytest.raises(UnsupportedError, match="'inner' was made from b, not from main"):
        main.merge_branch("inner")
    outer.merge_branch("inner")
    assert content(outer, "a", "b")[100] == (5, 6)
    main.append(rows(300))
    main.merge_branch("b")
    assert content(main, "a", "b")[100] == (5, 6)
    assert row_ids(main)[200] == 2 * LINE_IDS
    assert [entry.pins for entry in main.snapshot.version.branches.values()] == [frozenset(), frozenset()]
    main.delete_branch("inner").delete_branch("b")
    main.expire_versions()
    main.collect_garbage(dry_run=False, grace=NOW)
    assert len(content(lake.open("unused", store=store))) == 23
    assert main.verify().ok


def test_a_merge_among_fast_forwards(pair: tuple[lake.Table, lake.Table]) -> None:
    """spec: BRA-13, BRA-14"""
    main, branch = pair
    branch.append(rows(100))
    main.fast_forward("b")
    main.append(rows(300))
    main.delete("id = 100")
    branch.update({"a": 7}, where="id in (1, 100)")
    main.merge_branch("b")
    assert content(main)[1] == 7
    assert 100 not in content(main)
    branch.append(rows(101))
    with pytest.raises(ConflictError, match="main has gone on"):
        main.fast_forward("b")
    assert main.verify().ok


# --- what does not go together ------------------------------------------------------------------------------


CONFLICTS: list[tuple[Job, Job, str]] = [
    (update_a, update_a, r"its update meets update.*columns: 'a'; rows: 4, 5, 14"),
    (lambda table: table.restore(1), append, "was restored"),
    (append, lambda table: table.restore(2), "append meets restore"),
    (
        lambda table: table.add_column("n", pa.int64()),
        lambda table: table.add_column("n", pa.int64()),
        "add_column meets add_column",
    ),
    (
        lambda table: table.add_column("n", pa.int64()),
        lambda table: table.add_column("m", pa.int64()),
        "both lines changed columns.*'m', 'n'",
    ),
    (
        lambda table: table.rename_column("a", "x"),
        lambda table: table.drop_column("b"),
        "both lines changed columns",
    ),
    (update_a, lambda table: table.drop_column("a"), "update meets drop_column"),
    (lambda table: table.delete("a = 4"), update_a, "delete meets update.*columns: 'a'"),
    (
        lambda table: table.create_index("v", name="n", lists=2),
        lambda table: table.create_index("v", name="n", lists=2),
        "create_index meets create_index",
    ),
    (append, lambda table: table.set_key(["id"]), "append meets set_properties"),
    (lambda table: table.set_key(["id"]).delete("id = 1"), append, "key was changed"),
    (lambda table: table.delete("id = 1"), lambda table: table.set_key(["id"]), "key was changed"),
]


@pytest.mark.parametrize(("mine", "theirs", "message"), CONFLICTS)
def test_what_does_not_go_together_is_named(
    pair: tuple[lake.Table, lake.Table], mine: Job, theirs: Job, message: str
) -> None:
    """spec: CON-10, CON-11, IDN-16, BRA-16"""
    main, branch = pair
    mine(branch)
    theirs(main)
    version, before = main.version, content(main, main.schema.names[-1])
    with pytest.raises(ConflictError, match=message):
        main.merge_branch("b")
    assert main.refresh().version == version
    assert content(main, main.schema.names[-1]) == before


def test_two_lines_do_not_bring_the_same_key(store: Store) -> None:
    """Other keys go together, and the key index knows them. spec: IDN-15, CON-11"""
    main = lake.create("unused", SCHEMA, store=store, key=["id"]).append(rows(0, 10))
    branch = main.create_branch("b")
    branch.upsert(rows(5, 10))
    branch.update({"id": 70}, where="id = 7")
    main.append(rows(20, 5))
    main.merge_branch("b")
    assert sorted(content(main)) == [*range(7), *range(8, 15), *range(20, 25), 70]
    assert main.verify().ok
    for one in (5, 12, 70, 22):
        with pytest.raises(LakeError, match="key"):
            main.append(rows(one))
    branch.append(rows(40))
    main.append(rows(40))
    with pytest.raises(ConflictError, match=r"append meets append.*same key"):
        main.merge_branch("b")


def test_a_row_told_too_coarsely_is_no_reason_to_overwrite(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upsert goes over an update; of one that tells too many rows nobody knows. spec: CON-3, BRA-16"""
    mine = OperationRecord(
        kind="upsert", fields_written=frozenset({2}), rows_updated=RowRuns(((1, 9), (20, 1)))
    )
    theirs = OperationRecord(kind="update", fields_written=frozenset({2}), rows_updated=RowRuns(((3, 1),)))
    versions = (bare_version(3), bare_version(3))
    merge_plan._judge("b", [mine], [theirs], versions)
    monkeypatch.setattr(merge_plan, "MAX_RUNS", 2)
    with pytest.raises(ConflictError, match="too many rows"):
        merge_plan._judge("b", [mine], [theirs], versions)


def test_what_was_done_must_still_be_known(pair: tuple[lake.Table, lake.Table], store: Store) -> None:
    """spec: BRA-14, IDN-19"""
    main, branch = pair
    branch.append(rows(200))
    with pytest.raises(NotFoundError):
        main.merge_branch("c")
    other = main.create_branch("other").append(rows(300))
    main.append(rows(100))
    main.append(rows(101))
    other.append(rows(301)).expire_versions()
    with pytest.raises(ConflictError, match="'other' has let versions from 1 on expire"):
        main.merge_branch("other")
    main.expire_versions()
    with pytest.raises(ConflictError, match="the table has let versions from"):
        main.merge_branch("b")
    main.delete_branch("b")
    with pytest.raises(NotFoundError):
        main.merge_branch("b")
    assert main.verify().ok


def test_what_a_branch_holds_for_a_merge() -> None:
    """spec: BRA-12"""
    entry = BranchEntry(line=3, parent_line=0, parent_version=4).with_pin(1, 7).with_pin(1, 9).with_pin(2, 5)
    assert entry.without_pin(1, 9, older=False).pins == {(1, 7), (2, 5)}
    assert entry.without_pin(1, 9, older=True).pins == {(2, 5)}


def test_a_transaction_knows_rows_that_were_brought_in(pair: tuple[lake.Table, lake.Table]) -> None:
    """Their ids are above the counter of main, and yet they were there before. spec: CON-13, IDN-3"""
    main, branch = pair
    branch.append(rows(100))
    main.merge_branch("b")

    def together() -> None:
        with main.transaction() as transaction:
            transaction.append(rows(101))
            transaction.update({"a": 1}, where="id = 100")
            main.update({"a": 2}, where="id = 100")

    with pytest.raises(ConflictError, match="same column of the same row"):
        together()
    assert content(main.refresh())[100] == 2
    runs = RowRuns(((0, 5), (8, 4), (20, 2)))
    assert runs.outside(3, 9) == RowRuns(((0, 3), (9, 3), (20, 2)))
    assert runs.outside(9, 30) == RowRuns(((0, 5), (8, 1)))
    assert runs.outside(22, 30) == runs
