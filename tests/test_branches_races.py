"""Collection while branches are made, written, expired and deleted: at every storage call of the collector somebody
else does something, and nothing that is left is broken. Crashes at every storage call of making and deleting."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
import pytest
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_commit_faults import CRASHES, FAILURES, at, fresh, objects_of

import lake_format as lake
from lake_format.errors import LakeError, NotFoundError
from lake_format.store import Store

NOW = timedelta(0)
SCHEMA = pa.schema([("id", pa.int64())])
STRIDES = [7, pytest.param(1, marks=pytest.mark.long)]
"""Every seventh call in a normal run, every call in a long one."""
Action = Callable[[Store], object]


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())}, schema=SCHEMA)


def opened(store: Store, branch: str | None = None) -> lake.Table:
    return lake.open(branch=branch, **at(store))


def collect(store: Store) -> object:
    return opened(store).collect_garbage(dry_run=False, grace=NOW)


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    """Main and a branch that both let versions expire, a branch of the branch, a deleted one, and garbage of each."""
    store = fresh({})
    main = lake.create(schema=SCHEMA, **at(store)).append(rows(0, 1)).append(rows(2))
    main.create_branch("gone").append(rows(50))
    branch = main.create_branch("b").append(rows(10)).append(rows(11))
    branch.create_branch("inner").append(rows(20))
    branch.delete("id = 11")
    branch.expire_versions()
    main.delete_branch("gone").delete("id = 2")
    main.expire_versions()
    return objects_of(store)


def check_whole(store: Store) -> None:
    """Every version of every branch that is kept can be opened, and all that it names is there."""
    stored = {info.path for info in store.list("")}
    for name in [None, *(one["name"] for one in opened(store).branches())]:
        table = opened(store, name)
        for version in table.versions():
            old = table.checkout(version["version"])
            named = {one.path for one in old.snapshot.version.manifests if one.path is not None}
            named |= {shard.path for entry in old.snapshot.version.indexes for shard in entry.shards}
            assert named <= stored, (name, version)
            assert set(old.inspect.files()["path"].to_pylist()) <= stored, (name, version)


def branch_of_main(store: Store) -> None:
    opened(store).create_branch("new").append(rows(30))


def branch_of_branch(store: Store) -> None:
    opened(store, "b").create_branch("new").append(rows(30))


def end_of_a_branch(store: Store) -> None:
    opened(store).delete_branch("b")


def branch_of_a_branch_that_ends(store: Store) -> None:
    branch_of_branch(store)
    end_of_a_branch(store)


def expiry_on_a_branch(store: Store) -> None:
    table = opened(store, "b").append(rows(12))
    table.tag("t", table.version).delete("id = 10")
    table.expire_versions()


def expiry_on_main(store: Store) -> None:
    main = opened(store).append(rows(3))
    main.create_branch("new").append(rows(30))
    main.delete("id = 3")
    main.expire_versions()


def fast_forward(store: Store) -> None:
    main = opened(store)
    main.create_branch("new").append(rows(30)).append(rows(31))
    main.fast_forward("new").delete_branch("new")


def another_collector(store: Store) -> None:
    end_of_a_branch(store)
    collect(store)


ACTIONS: list[Action] = [
    branch_of_main,
    branch_of_branch,
    end_of_a_branch,
    branch_of_a_branch_that_ends,
    expiry_on_a_branch,
    expiry_on_main,
    fast_forward,
    another_collector,
]


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_collector_never_removes_what_others_need_meanwhile(
    before: dict[str, bytes], action: Action, stride: int
) -> None:
    """spec: BRA-9, BRA-11"""
    calls = count_calls(collect, fresh(before))
    for place in range(ACTIONS.index(action) % stride, calls, stride):
        store = fresh(before)

        def plan(number: int, _method: str, _path: str, place: int = place, store: Store = store) -> None:
            if number == place:
                action(store)

        collect(FaultyStore(store, plan))
        check_whole(store)


def test_a_branch_made_while_its_version_expires_is_whole_or_refused(before: dict[str, bytes]) -> None:
    """At every call of the creator main moves on, lets versions expire and is collected. spec: BRA-5, BRA-11"""

    def expire(store: Store) -> None:
        table = opened(store).append(rows(7))
        table.delete("id = 7")
        table.expire_versions()
        collect(store)

    made, refused = 0, 0
    for place in range(count_calls(branch_of_main, fresh(before))):
        store = fresh(before)

        def plan(number: int, _method: str, _path: str, place: int = place, store: Store = store) -> None:
            if number == place:
                expire(store)

        try:
            branch_of_main(FaultyStore(store, plan))
            made += 1
        except NotFoundError:
            refused += 1
        check_whole(store)
    assert made
    assert refused


@pytest.mark.parametrize("fault", [*CRASHES, *FAILURES])
def test_making_a_branch_fails_whole(before: dict[str, bytes], fault: Fault) -> None:
    """After a fault at any call the branch is there, or it is not and can be made. spec: BRA-4, BRA-11, COM-4"""

    def job(store: Store) -> object:
        return opened(store).create_branch("new")

    for place in range(count_calls(job, fresh(before))):
        store = fresh(before)
        acknowledged = run_with(store, job, place, fault)
        names = [one["name"] for one in opened(store).branches()]
        assert "new" in names or not acknowledged
        table = opened(store, "new") if "new" in names else opened(store).create_branch("new")
        assert sorted(table.append(rows(60)).to_arrow()["id"].to_pylist()) == [0, 1, 60]
        collect(store)
        check_whole(store)


@pytest.mark.parametrize("fault", [*CRASHES, *FAILURES])
def test_deleting_a_branch_fails_whole(before: dict[str, bytes], fault: Fault) -> None:
    """After a fault at any call the branch is whole, or ended: then its name can be had again. spec: BRA-7, BRA-11"""

    def job(store: Store) -> object:
        return opened(store).delete_branch("b")

    for place in range(count_calls(job, fresh(before))):
        store = fresh(before)
        acknowledged = run_with(store, job, place, fault)
        try:
            opened(store, "b").append(rows(61))
            assert not acknowledged
        except NotFoundError:
            assert opened(store).create_branch("b").count() == 2
        collect(store)
        check_whole(store)


@pytest.mark.parametrize("fault", [*CRASHES, *FAILURES])
def test_bringing_main_forward_fails_whole(before: dict[str, bytes], fault: Fault) -> None:
    """After a fault at any call main is where it was, or where the branch is. spec: BRA-13, COM-4"""
    start = fresh(before)
    opened(start).create_branch("new").append(rows(30))
    objects = objects_of(start)

    def job(store: Store) -> object:
        return opened(store).fast_forward("new")

    for place in range(count_calls(job, fresh(objects))):
        store = fresh(objects)
        acknowledged = run_with(store, job, place, fault)
        found = sorted(opened(store).to_arrow()["id"].to_pylist())
        assert found == [0, 1, 30] or (found == [0, 1] and not acknowledged)
        assert sorted(opened(store).fast_forward("new").to_arrow()["id"].to_pylist()) == [0, 1, 30]
        check_whole(store)


@pytest.mark.parametrize("meanwhile", ["delete", "expire", "append"])
def test_a_fast_forward_whose_ground_goes_is_refused_or_whole(
    before: dict[str, bytes], meanwhile: str
) -> None:
    """The branch is deleted or its version expires, and all is collected; or main goes on. spec: BRA-11, BRA-13"""
    start = fresh(before)
    opened(start).create_branch("new").append(rows(30))
    objects = objects_of(start)

    def act(store: Store) -> None:
        if meanwhile == "delete":
            opened(store).delete_branch("new")
        elif meanwhile == "expire":
            branch = opened(store, "new")
            branch.delete("id = 30")
            branch.append(rows(31)).expire_versions()
        else:
            opened(store).append(rows(3))
        collect(store)

    def job(store: Store) -> object:
        return opened(store).fast_forward("new")

    for place in range(count_calls(job, fresh(objects))):
        store = fresh(objects)

        def plan(number: int, _method: str, _path: str, place: int = place, store: Store = store) -> None:
            if number == place:
                act(store)

        try:
            job(FaultyStore(store, plan))
        except LakeError:
            assert 30 not in opened(store).to_arrow()["id"].to_pylist()
        check_whole(store)
        opened(store).to_arrow()


def run_with(store: Store, job: Action, place: int, fault: Fault) -> bool:
    """Run a job with one fault; whether it was acknowledged."""
    try:
        job(FaultyStore(store, {place: fault}))
    except (SimulatedCrash, LakeError):
        return False
    return True
