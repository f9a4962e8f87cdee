"""Clones while others work on source and target, and crashes at every storage call (spec/copies.md, CPY-10)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from external_samples import SCHEMA, rows
from stores.faulty import Fault, FaultyStore, SimulatedCrash, count_calls
from test_clone import NOW, collected
from test_commit_faults import CRASHES, FAILURES, at, fresh, objects_of

import lake_format as lake
from lake_format.errors import AlreadyExistsError, LakeError, NotFoundError
from lake_format.log import ExpiredError
from lake_format.pins import list_pins
from lake_format.store import Store


@pytest.fixture(scope="module")
def before() -> dict[str, bytes]:
    """A table with two versions of rows."""
    store = fresh({})
    lake.create(schema=SCHEMA, **at(store)).append(rows(0)).append(rows(10)).tag("t")
    return objects_of(store)


def opened(store: Store) -> lake.Table:
    return lake.open(**at(store))


def clone_to(source: Store, target: Store) -> lake.Table:
    return opened(source).clone("unused", store=target)


def move_on(store: Store) -> None:
    table = opened(store)
    if "t" in table.tags():
        table.delete_tag("t")
    table.overwrite(rows(50, 1))
    collected(table)


def check_clone(source: Store, target: Store) -> bool:
    """Whether there is a clone; if so, it is whole, if pinned also after the source moved on and was collected."""
    try:
        table = lake.open("unused", store=target, allow_external={source.uri: source})
    except NotFoundError:
        return False
    if table.inspect.sources()["pinned"].to_pylist() == [True]:
        move_on(source)
    assert table.verify().problems == []
    assert table.count() in (12, 1)  # before the source moved on, or after
    return True


@pytest.mark.parametrize("actor", [move_on, lambda store: collected(opened(store))])
def test_a_source_that_expires_and_is_collected_meanwhile(
    before: dict[str, bytes], actor: Callable[[Store], object]
) -> None:
    """At every call of the one who clones: the clone is whole, or refused and not there. spec: CPY-10"""
    calls = count_calls(lambda store: clone_to(store, fresh({})), fresh(before))
    refused = 0
    for place in range(calls):
        store, target = fresh(before), fresh({})

        def plan(number: int, _method: str, _path: str, place: int = place, store: Store = store) -> None:
            if number == place:
                actor(store)

        try:
            clone_to(FaultyStore(store, plan), target)
        except NotFoundError:
            refused += 1
            assert list_pins(store) == []
            assert not check_clone(store, target)
        else:
            assert check_clone(store, target)
    assert actor is not move_on or 0 < refused < calls


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.long)])
def test_a_clone_made_while_the_source_is_collected(before: dict[str, bytes], stride: int) -> None:
    """At every call of the collector somebody clones, and the source moves on. spec: CPY-10, BRA-9"""

    store = fresh(before)
    table = opened(store).delete_tag("t").append(rows(20, 1))
    table.delete("id = 20")
    table.expire_versions(keep=2)
    expired = objects_of(store)

    def collect(store: Store) -> None:
        opened(store).collect_garbage(dry_run=False, grace=NOW)

    for place in range(0, count_calls(collect, fresh(expired)), stride):
        store, target = fresh(expired), fresh({})

        def clone_and_move_on(store: Store = store, target: Store = target) -> None:
            with pytest.raises(ExpiredError):
                opened(store).clone("unused", 2, store=target)
            clone_to(store, target)
            table = opened(store)
            table.overwrite(rows(60, 1))
            table.expire_versions()

        def plan(
            number: int,
            _method: str,
            _path: str,
            place: int = place,
            act: Callable[[], None] = clone_and_move_on,
        ) -> None:
            if number == place:
                act()

        collect(FaultyStore(store, plan))
        assert check_clone(store, target)


@pytest.mark.filterwarnings("ignore:.*not pinned:UserWarning")
@pytest.mark.parametrize("fault", [*CRASHES, *FAILURES, Fault.REPEATED], ids=lambda fault: fault.name)
def test_a_clone_that_failed_at_any_call(fault: Fault, before: dict[str, bytes]) -> None:
    """There is a whole clone or none, and cloning again to another place works. spec: CPY-7, COM-10"""
    for faulty_source in (True, False):
        store, target = fresh(before), fresh({})
        if faulty_source:
            calls = count_calls(lambda store, target=target: clone_to(store, target), store)
        else:
            calls = count_calls(lambda target, store=store: clone_to(store, target), target)
        for number in range(calls):
            store, target = fresh(before), fresh({})
            faulty = FaultyStore(store if faulty_source else target, {number: fault})
            try:
                clone_to(faulty, target) if faulty_source else clone_to(store, faulty)
                made = True
            except (SimulatedCrash, LakeError):
                made = False
            pins = list_pins(store)
            assert check_clone(store, target) or not made
            if fault in (Fault.PERMISSION_DENIED, Fault.DISK_FULL) and not made:
                assert pins == []
            if not made and not list(target.list("_lake/versions/")):
                assert clone_to(fresh(before), target).count() == 12


def test_of_two_that_clone_to_one_place_one_wins(before: dict[str, bytes]) -> None:
    """spec: CPY-7"""
    calls = count_calls(lambda target: clone_to(fresh(before), target), fresh({}))
    for place in range(calls):
        race(fresh(before), fresh({}), place)


def race(store: Store, target: Store, place: int) -> None:
    winners: list[str] = []

    def compete(through: Store) -> None:
        with suppress(AlreadyExistsError):
            winners.append(clone_to(store, through).snapshot.version.table_id)

    def plan(number: int, _method: str, _path: str) -> None:
        if number == place:
            compete(target)

    compete(FaultyStore(target, plan))
    assert [pin.table_id for pin in list_pins(store)] == winners
    assert [lake.open("unused", store=target).snapshot.version.table_id] == winners
