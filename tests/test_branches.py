"""Branches: made from any version, found by name, written apart, deleted; nobody sees the other's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest
from conftest import Location
from machine.interposed import InterposedStore
from samples import bare_version, still_surroundings

import lake_format as lake
from lake_format.codec import decode_version, encode_version
from lake_format.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
    UnsupportedError,
)
from lake_format.lines import LINE_IDS, BranchEntry, BranchOrigin, needed_versions, require_room
from lake_format.paths import LATEST, line_path, version_path
from lake_format.store import Store, forget_memory, open_store
from lake_format.store.metered import MeteredStore

SCHEMA = pa.schema([pa.field("id", pa.int64(), False), ("v", pa.list_(pa.float32(), 4))])
NOW = timedelta(0)


def rows(first: int, count: int = 1) -> pa.Table:
    ids = np.arange(first, first + count)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype("f4")), 4)
    return pa.table([pa.array(ids), vectors], SCHEMA)


@pytest.fixture
def store() -> Iterator[Store]:
    uri = f"memory://branches-{uuid4().hex}"
    yield open_store(uri)
    forget_memory(uri)


def make(store: Store, appends: int = 3) -> lake.Table:
    """A table of which version n has ids 0 to n - 2."""
    table = lake.create("unused", SCHEMA, store=store)
    for number in range(appends):
        table.append(rows(number))
    return table


def reopened(store: Store, branch: str | None = None, **how: Any) -> lake.Table:
    return lake.open("unused", store=store, branch=branch, **how)


def ids_of(table: lake.Table) -> list[int]:
    return sorted(table.to_arrow()["id"].to_pylist())


def row_ids(table: lake.Table) -> dict[int, int]:
    found = table.scan(["id", "_row_id"]).read_all().to_pylist()
    return {row["id"]: row["_row_id"] for row in found}


# --- making and finding -------------------------------------------------------------------------------------


def test_a_branch_goes_its_own_way(store: Store) -> None:
    """Both sides keep what they shared, with its row ids, and see nothing of the other. spec: BRA-4, IDN-3"""
    main = make(store)
    branch = main.create_branch("try/this")
    branch.append(rows(10, 2)).delete("id = 1")
    main.append(rows(20))
    assert ids_of(branch) == ids_of(reopened(store, "try/this")) == [0, 2, 10, 11]
    assert ids_of(main) == ids_of(reopened(store)) == ids_of(reopened(store, "main")) == [0, 1, 2, 20]
    assert row_ids(branch) == {0: 0, 2: 2, 10: LINE_IDS, 11: LINE_IDS + 1}
    assert row_ids(main) == {0: 0, 1: 1, 2: 2, 20: 3}
    assert (branch.branch, main.branch) == ("try/this", "main")
    assert "try/this" in repr(branch)
    assert branch.verify().ok
    assert main.verify().ok


@pytest.mark.parametrize("kind", ["memory", "local", "s3"])
def test_branches_on_every_store(kind: str, request: pytest.FixtureRequest) -> None:
    """spec: BRA-1, BRA-2"""
    place: Location = request.getfixturevalue(f"{kind}_location")
    options = {"storage_options": place.storage_options}
    main = lake.create(place.uri, SCHEMA, **options).append(rows(0, 5))
    main.create_branch("b").append(rows(5, 5))
    branch = lake.open(place.uri, branch="b", **options)
    assert ids_of(branch) == list(range(10))
    paths = [info.path for info in place.store().list("_lake/")]
    assert line_path(1) == "_lake/lines/0000001.line" in paths
    assert version_path(2, 1) == "_lake/branches/0000001/versions/00000000000000000002.lake" in paths
    assert "_lake/branches/0000001/latest" in paths
    branch.delete_branch("b")
    with pytest.raises(NotFoundError):
        lake.open(place.uri, branch="b", **options)
    assert line_path(1) in [info.path for info in place.store().list("_lake/lines/")]


def test_from_an_older_version_a_tag_or_a_branch(store: Store) -> None:
    """spec: BRA-4"""
    main = make(store).tag("two", 3)
    assert ids_of(main.create_branch("by-number", 2)) == [0]
    assert ids_of(main.create_branch("by-tag", "two")) == [0, 1]
    assert ids_of(main.checkout(3).create_branch("by-checkout")) == [0, 1]
    inner = main.create_branch("outer").append(rows(7)).create_branch("inner")
    inner.append(rows(8))
    assert row_ids(inner) == {0: 0, 1: 1, 2: 2, 7: 4 * LINE_IDS, 8: 5 * LINE_IDS}
    assert main.branches() == [
        {"name": "by-checkout", "from_branch": "main", "from_version": 3},
        {"name": "by-number", "from_branch": "main", "from_version": 2},
        {"name": "by-tag", "from_branch": "main", "from_version": 3},
        {"name": "inner", "from_branch": "outer", "from_version": 2},
        {"name": "outer", "from_branch": "main", "from_version": 7},
    ]
    assert inner.branches() == main.branches()
    assert inner.verify().ok


def test_a_branch_has_versions_times_and_tags_of_its_own(store: Store) -> None:
    """spec: BRA-1, VER-4"""
    clock = iter(range(1_700_000_000, 1_700_100_000, 60))
    around = still_surroundings(now=lambda: float(next(clock)), new_id=uuid4)
    main = lake.create("unused", SCHEMA, store=store, surroundings=around)
    main.append(rows(0)).tag("t")
    branch = main.create_branch("b")
    branch.append(rows(1)).append(rows(2)).tag("t", 2)
    assert [one["version"] for one in branch.versions()] == [1, 2, 3, 4]
    assert ids_of(reopened(store, "b", tag="t")) == [0, 1]
    assert ids_of(reopened(store, tag="t")) == [0]
    assert ids_of(reopened(store, "b", version=1)) == [0]
    then = branch.versions()[1]["committed_at"]
    assert ids_of(reopened(store, "b", as_of=then)) == [0, 1]
    with pytest.raises(NotFoundError, match="no table at"):
        reopened(store, "b", as_of=datetime.fromtimestamp(1_700_000_000, UTC))
    branch.restore(2)
    assert ids_of(branch) == [0, 1]
    assert branch.diff(1).added.tolist() == [LINE_IDS]


def test_what_cannot_be_made_or_found(store: Store) -> None:
    """spec: BRA-3, BRA-5"""
    main = make(store)
    for name in ("main", "", "a b", "-x", 7, None):
        with pytest.raises(InvalidInputError, match="name of a branch"):
            main.create_branch(name)  # type: ignore[arg-type]
    main.create_branch("b")
    with pytest.raises(AlreadyExistsError, match="'b' already"):
        main.create_branch("b")
    with pytest.raises(NotFoundError, match=r"no branch 'c'.*branches are: b"):
        reopened(store, "c")
    with pytest.raises(NotFoundError):
        main.create_branch("c", 99)
    with pytest.raises(InvalidInputError, match="'main'"):
        main.delete_branch("main")
    main.tag("keep", 2).expire_versions(keep=1)
    main.create_branch("kept", "keep")
    with pytest.raises(NotFoundError, match="expired"):
        main.create_branch("c", 3)


def test_opening_a_branch_costs_one_request_more(store: Store) -> None:
    """spec: BRA-6"""
    make(store).create_branch("b").append(rows(5))
    metered = MeteredStore(store)
    reopened(metered)
    main = metered.usage().total_requests
    metered = MeteredStore(store)
    assert ids_of(reopened(metered, "b")) == [0, 1, 2, 5]
    metered = MeteredStore(store)
    reopened(metered, "b")
    assert metered.usage().total_requests == main + 1


def test_a_hint_of_main_that_is_behind_misleads_nobody(store: Store) -> None:
    """The branch is made, deleted and made anew, and main's hint knows only the first. spec: BRA-6, COM-5"""
    main = make(store)
    before = store.get(LATEST)
    main.create_branch("b").append(rows(5))
    first = store.get(LATEST)
    store.put(LATEST, before)
    assert ids_of(reopened(store, "b")) == [0, 1, 2, 5]
    main.delete_branch("b")
    main.create_branch("b", 2).append(rows(6))
    store.put(LATEST, first)
    assert ids_of(reopened(store, "b")) == [0, 6]
    store.put(LATEST, first)
    assert ids_of(reopened(store, "b", version=2)) == [0, 6]
    main.delete_branch("b")
    store.put(LATEST, first)
    with pytest.raises(NotFoundError, match="no branch 'b'"):
        reopened(store, "b")


def test_everything_works_on_a_branch(store: Store) -> None:
    """spec: BRA-1"""
    main = make(store, 1)
    main.append(rows(1, 400))
    branch = main.create_branch("b")
    branch.create_index("v", lists=4).append(rows(401, 9))
    branch.update({"v": [0.5] * 4}, where="id = 7")
    branch.add_column("n", values=lake.sql("id * 2"))
    branch.backfill("n", lake.sql("id"), where="id >= 401")
    assert branch.compact().commits == 1
    found = branch.search([0.5] * 4, k=2, select=["id", "n"]).to_arrow().to_pylist()
    assert {row["id"] for row in found} <= {0, 1, 7}
    assert found[0] == {"id": 7, "n": 14}
    assert branch.expire_versions(keep=2).expired > 0
    assert branch.verify().ok
    assert main.refresh().schema.names == ["id", "v"]
    assert main.inspect.indexes().num_rows == 0


# --- deleting -----------------------------------------------------------------------------------------------


def test_a_writer_on_a_deleted_branch_is_refused(store: Store) -> None:
    """spec: BRA-7"""
    main = make(store)
    branch = main.create_branch("b").append(rows(5))
    late = reopened(store, "b")
    main.delete_branch("b")
    with pytest.raises(ConflictError, match="'b' was deleted"):
        late.append(rows(6))
    with pytest.raises(NotFoundError, match="'b' was deleted"):
        late.refresh()
    assert ids_of(late) == [0, 1, 2, 5]  # what it reads is still there
    with pytest.raises(NotFoundError):
        branch.create_branch("c")
    with pytest.raises(NotFoundError):
        main.delete_branch("b")
    again = main.create_branch("b")
    assert ids_of(again) == [0, 1, 2]
    assert again.snapshot.version.line == 2


def test_a_branch_of_a_deleted_branch_stays(store: Store) -> None:
    """spec: BRA-7"""
    main = make(store)
    inner = main.create_branch("outer").append(rows(5)).create_branch("inner")
    main.delete_branch("outer")
    main.expire_versions()
    main.collect_garbage(dry_run=False, grace=NOW)
    assert ids_of(inner.append(rows(6))) == [0, 1, 2, 5, 6]
    assert inner.verify().ok
    assert main.branches()[0]["from_branch"] == "line 1 (deleted)"


def run_together(jobs: list[Callable[[], None]]) -> list[LakeError]:
    """Run jobs at the same time; the typed errors they ended with. Any other error fails the test."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
    errors = [future.exception() for future in futures]
    others = [error for error in errors if error is not None and not isinstance(error, LakeError)]
    assert others == []
    return [error for error in errors if isinstance(error, LakeError)]


def test_of_two_creators_of_a_name_one_succeeds(store: Store) -> None:
    """spec: BRA-2, BRA-5"""
    make(store)

    def creator() -> None:
        reopened(store).create_branch("b").append(rows(9))

    errors = run_together([creator] * 5)
    assert [type(error) for error in errors] == [AlreadyExistsError] * 4
    assert ids_of(reopened(store, "b")) == [0, 1, 2, 9]


def test_deleting_while_others_write_and_delete(store: Store) -> None:
    """Every append is acknowledged before the end of the line, or refused; deleters do not quarrel. spec: BRA-7"""
    main = make(store)
    main.create_branch("b")
    landed: list[int] = []

    def writer(number: int) -> None:
        table = reopened(store, "b")
        for at in range(20):
            table.append(rows(100 * number + at))
            landed.append(100 * number + at)

    def deleter() -> None:
        reopened(store).delete_branch("b")

    errors = run_together([lambda: writer(1), lambda: writer(2), deleter, deleter])
    assert {type(error) for error in errors} <= {ConflictError, NotFoundError}
    assert main.branches() == []
    last = lake.open("unused", store=store)._log.of_line(1).latest()
    assert last.is_end
    assert last.row_count == 3 + len(landed)


# --- bringing main forward -----------------------------------------------------------------------------------


def test_main_goes_where_the_branch_is(store: Store) -> None:
    """By reference, with row ids, again and again, whatever upkeep was done. spec: BRA-13, IDN-3"""
    main = make(store)
    branch = main.create_branch("b")
    branch.append(rows(10, 2)).delete("id = 1")
    branch.add_column("n", pa.int64(), values=lake.sql("id * 2"))
    main.compact()
    main.fast_forward("b")
    assert main.to_arrow().equals(branch.to_arrow())
    assert row_ids(main) == {0: 0, 2: 2, 10: LINE_IDS, 11: LINE_IDS + 1}
    assert main.verify().ok
    version = main.version
    assert main.fast_forward("b").version == version  # nothing new
    branch.append(rows(12).append_column("n", pa.array([7])))
    main.fast_forward("b")
    assert ids_of(main) == ids_of(reopened(store)) == [0, 2, 10, 11, 12]
    main.delete_branch("b")
    main.append(rows(13).append_column("n", pa.array([8])))
    assert row_ids(main)[13] == 3
    main.expire_versions()
    main.collect_garbage(dry_run=False, grace=NOW)
    assert ids_of(reopened(store)) == [0, 2, 10, 11, 12, 13]
    assert main.verify().ok


def test_main_that_went_on_is_not_moved(store: Store) -> None:
    """spec: BRA-13"""
    main = make(store)
    branch = main.create_branch("b").append(rows(10))
    inner = branch.create_branch("inner").append(rows(11))
    with pytest.raises(UnsupportedError, match="'inner' was made from b"):
        main.fast_forward("inner")
    with pytest.raises(UnsupportedError, match="only main"):
        branch.fast_forward("inner")
    late = reopened(store)
    main.append(rows(20))
    with pytest.raises(ConflictError, match=r"append in version \d+"):
        main.fast_forward("b")
    with pytest.raises(ConflictError):
        late.fast_forward("b")
    assert ids_of(reopened(store)) == [0, 1, 2, 20]
    main.expire_versions()
    with pytest.raises(ConflictError, match="have expired"):
        main.fast_forward("b")
    with pytest.raises(NotFoundError):
        main.fast_forward("c")
    assert ids_of(inner) == [0, 1, 2, 10, 11]


def test_a_version_that_is_being_merged_is_kept() -> None:
    """spec: BRA-12"""
    pinned = BranchEntry(line=2, parent_line=0, parent_version=4, pins=frozenset({(1, 7)}))
    assert needed_versions({"b": pinned}, 1) == {7}
    assert needed_versions({"b": pinned}, 0) == {4}


# --- what is kept -------------------------------------------------------------------------------------------


def everything(store: Store) -> set[str]:
    return {info.path for info in store.list("") if not info.path.startswith("_lake/versions/")}


def test_collection_keeps_what_a_branch_needs(store: Store) -> None:
    """The fork point, what the branch has of its own, and its tags. spec: BRA-9, IDN-19, UPK-6"""
    main = make(store)
    branch = main.create_branch("b", 2)
    branch.append(rows(5)).tag("five").delete("id = 5")
    main.delete("id >= 0")
    branch.compact()
    branch.expire_versions()
    main.expire_versions()
    main.collect_garbage(dry_run=False, grace=NOW)
    assert ids_of(reopened(store, "b")) == [0]
    assert ids_of(reopened(store, "b", tag="five")) == [0, 5]
    assert ids_of(reopened(store, version=2)) == [0]  # where the branch forks
    with pytest.raises(NotFoundError, match="expired"):
        reopened(store, version=3)
    with pytest.raises(NotFoundError, match="expired"):
        reopened(store, "b", version=1)
    assert reopened(store, "b").verify().ok


def test_a_branch_that_never_expired_keeps_all_of_its_versions(store: Store) -> None:
    """spec: BRA-8, BRA-9"""
    main = make(store)
    branch = main.create_branch("b")
    branch.append(rows(5)).delete("id >= 0")
    main.refresh().delete("id >= 0")
    main.expire_versions()
    main.collect_garbage(dry_run=False, grace=NOW)
    assert [ids_of(reopened(store, "b", version=n)) for n in (1, 2, 3)] == [[0, 1, 2], [0, 1, 2, 5], []]


def test_what_a_deleted_branch_alone_had_is_collected(store: Store) -> None:
    """At once, although main and another branch never let a version expire. spec: BRA-9, BRA-10, UPK-7"""
    main = make(store)
    before = everything(store)
    branch = main.create_branch("gone")
    branch.append(rows(1, 300)).create_index("v", lists=2)
    kept = main.create_branch("kept").append(rows(7))
    files = set(branch.inspect.files()["path"].to_pylist()) - set(main.inspect.files()["path"].to_pylist())
    main.delete_branch("gone")
    told = main.collect_garbage(grace=NOW)
    assert files <= set(told.objects)
    assert told.branch_versions == [(1, 1), (1, 2), (1, 3)]
    assert everything(store) > before | files
    done = main.collect_garbage(dry_run=False, grace=NOW)
    assert (done.objects, done.branch_versions) == (told.objects, told.branch_versions)
    assert not any(path in everything(store) for path in done.objects)
    assert main.collect_garbage(dry_run=False, grace=NOW).objects == []
    assert ids_of(kept) == [0, 1, 2, 7]
    for table in (main, kept):
        assert table.verify().ok
    with pytest.raises(NotFoundError, match="expired"):
        lake.open("unused", store=store)._log.of_line(1).read(2)


# --- stored bytes -------------------------------------------------------------------------------------------


def test_what_versions_say_of_branches_survives_and_is_checked() -> None:
    """spec: BRA-3"""
    origin = BranchOrigin(name="b", line=3, parent_line=1, parent_version=7)
    entry = BranchEntry(line=3, parent_line=1, parent_version=7, horizon=4, pins=frozenset({(2, 9), (2, 8)}))
    one = replace(bare_version(3), origin=origin, merges={4: 2})
    other = replace(bare_version(3), branches={"b": entry, "c": replace(entry, line=5, pins=frozenset())})
    for version in (one, other, replace(one, origin=replace(origin, dropped=True))):
        assert decode_version(encode_version(version), "here") == version
    wrong = [
        replace(one, origin=replace(origin, line=1)),
        replace(one, origin=replace(origin, line=0, parent_line=0)),
        replace(one, origin=replace(origin, line=1 << 23)),
        replace(one, origin=replace(origin, parent_version=0)),
        replace(one, merges={-1: 2}),
        replace(other, branches={"b": entry, "c": entry}),
        replace(other, branches={"b": replace(entry, parent_line=3)}),
        replace(other, branches={"b": replace(entry, horizon=-1)}),
        replace(other, branches={"b": replace(entry, pins=frozenset({(1, -1)}))}),
    ]
    for version in wrong:
        with pytest.raises(CorruptionError):
            decode_version(encode_version(version), "here")


def test_a_collector_that_does_not_know_branches_is_kept_away(store: Store) -> None:
    """The feature is required from the first branch on, also when it is gone. spec: BRA-3, TAB-6"""
    main = make(store)
    assert "branches" not in main.snapshot.version.required_features
    branch = main.create_branch("b")
    assert "branches" in branch.snapshot.version.required_features
    main.delete_branch("b")
    assert "branches" in reopened(store).snapshot.version.required_features


def test_a_line_does_not_give_out_ids_of_another() -> None:
    """spec: IDN-3"""
    require_room(5 * LINE_IDS, 6 * LINE_IDS)
    require_room(6 * LINE_IDS - 1, 6 * LINE_IDS)
    for before, after in ((6 * LINE_IDS - 1, 6 * LINE_IDS + 1), (0, LINE_IDS + 1)):
        with pytest.raises(UnsupportedError, match="all of its"):
            require_room(before, after)


@pytest.mark.parametrize("upkeep", [False, True])
@pytest.mark.parametrize("change", ["delete", "overwrite", "update"])
def test_compaction_that_meets_a_merge(store: Store, change: str, upkeep: bool) -> None:
    """A merge tells of the fragments it touched here, not on the branch, so that no row comes back. spec: CON-12"""
    branch = make(store).create_branch("b")
    if upkeep:
        branch.compact()
    if change == "update":
        branch.update({"id": 77}, "id = 2")
    else:
        branch.delete("id = 1") if change == "delete" else branch.overwrite(rows(50), "id < 2")
    between = InterposedStore(store)
    main = reopened(between)
    between.meanwhile = lambda: reopened(store).merge_branch("b")
    main.compact()
    between.raise_failure()
    assert between.meanwhile is None
    assert ids_of(reopened(store)) == ids_of(reopened(store, "b"))
    assert reopened(store).verify().problems == []
