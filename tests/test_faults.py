"""Every operation struck at every storage call by every fault (fault_operations.py has the table of operations).

After each: the table opens; what was acknowledged is there, what was not is there wholly or not at all; ``verify``
finds nothing; what the dead left behind is collected, and ``verify`` finds nothing again. The normal run takes a
sample, the same in every run; ``make test-long`` strikes all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import pytest
from fault_operations import OPERATIONS, RIVAL, Struck, connect, contents, fresh, objects_of, rows, start
from leftovers import left_over
from stores.faulty import Fault, FaultyStore, SimulatedCrash

from lake_format.errors import ConflictError, LakeError
from lake_format.store import Store, forget_memory

# A crash may meet a thread that reads ahead, which is then dead like the others.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

FAULTS = (
    Fault.CRASH_BEFORE,
    Fault.CRASH_AFTER,
    Fault.CRASH_MID_WRITE,
    Fault.LOSE_RESPONSE,
    Fault.LOSE_REQUEST,
    Fault.DISK_FULL,
    Fault.PERMISSION_DENIED,
    Fault.REPEATED,
    Fault.OVERTAKEN,
)
SAMPLE = 2
Contents = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What an operation starts from and may lead to."""

    objects: dict[str, bytes]
    calls: int
    before: Contents
    after: Contents
    with_rival: tuple[Contents, ...]
    """What may be there if a rival appended a row meanwhile and the operation did, or did not, land."""


@cache
def start_objects() -> dict[str, bytes]:
    store = fresh({})
    start(store)
    return objects_of(store)


@cache
def case(operation: Struck) -> Case:
    prepared = fresh(start_objects())
    operation.prepare(connect(prepared))
    objects = objects_of(prepared)
    watched = FaultyStore(fresh(objects))
    before = contents(watched.inner)
    operation.run(connect(watched))
    return Case(
        objects=objects,
        calls=len(watched.calls),
        before=before,
        after=contents(watched.inner),
        with_rival=tuple(
            outcome(objects, *jobs) for jobs in ([rival], [rival, operation.run], [operation.run, rival])
        ),
    )


def rival(table: Any) -> None:
    table.append(rows(RIVAL).select([name for name in ("id", "n") if name in table.schema.names]))


def outcome(objects: dict[str, bytes], *jobs: Callable[[Any], Any]) -> Contents:
    store = fresh(objects)
    for job in jobs:
        try:
            job(connect(store))
        except LakeError:
            return {}  # the two do not go together in this order
    return contents(store)


def strike(operation: Struck, number: int, fault: Fault, listing_lag: int = 0) -> None:
    """Run the operation with one fault and look at what is left."""
    known = case(operation)
    store = fresh(known.objects)
    struck = FaultyStore(
        store, {number: fault}, listing_lag=listing_lag, meanwhile=lambda: rival(connect(store))
    )
    met: BaseException | None = None
    try:
        operation.run(connect(struck))
    except (SimulatedCrash, LakeError) as error:
        met = error
    found = contents(store)
    where = f"{operation.name}: {fault.name} at call {number} {struck.calls[number:][:1]}: {met!r}"
    if fault is Fault.OVERTAKEN and number < len(struck.calls):  # a thread beside may make a call less
        assert met is None or isinstance(met, ConflictError), where
        assert found in known.with_rival, where
    elif met is None:
        assert found == known.after, where
    else:
        assert found in (known.before, known.after), where
        assert isinstance(met, SimulatedCrash) or fault is not Fault.REPEATED, where
    assert connect(store).verify().problems == [], where
    if isinstance(met, SimulatedCrash):
        check_resumes(operation, store, found, known)
    check_collects(store, contents(store), where)
    forget_memory(store.uri)


def check_resumes(operation: Struck, store: Store, found: Contents, known: Case) -> None:
    """Whoever does it again after a crash that left nothing succeeds."""
    if found == known.before:
        operation.run(connect(store))
        assert contents(store) == known.after


def check_collects(store: Store, found: Contents, where: str) -> None:
    """No file stays that the newest version does not need, and what it needs stays."""
    table = connect(store)
    for name in table.tags():
        table.delete_tag(name)
    table.expire_versions(keep=1)
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    assert left_over(store, table) == [], where
    assert table.verify().problems == [], where
    assert contents(store) == {**found, "tags": {}}, where


def sample(operation: Struck) -> list[tuple[int, Fault]]:
    """The same few calls and faults in every run."""
    chance = random.Random(operation.name)
    calls = case(operation).calls
    return [(chance.randrange(calls), fault) for fault in chance.sample(FAULTS, SAMPLE)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_a_fault_at_some_calls(operation: Struck) -> None:
    """spec: COM-1, COM-2, COM-4, COM-5, COM-10, EVO-8, EVO-9"""
    for number, fault in sample(operation):
        strike(operation, number, fault)


@pytest.mark.long
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_fault_at_every_call(operation: Struck) -> None:
    for number in range(case(operation).calls):
        for fault in FAULTS:
            strike(operation, number, fault)


@pytest.mark.parametrize("operation", OPERATIONS[-3:], ids=lambda one: one.name)
def test_a_listing_that_lags(operation: Struck) -> None:
    """Nothing relies on a listing being complete. spec: COM-6"""
    for lag in (1, 2):
        strike(operation, 0, Fault.DELAY, listing_lag=lag)
