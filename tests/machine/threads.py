"""Writers in real threads: afterwards every version must be one that its commit could make of the one before.

Which version a commit was planned on is not known, only that it is no older than the one its writer had seen. So each
is tried: the effect planned on one of them, applied to the version before, must give the version that is there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import lake_format as lake
from lake_format.errors import ConflictError, LakeError
from lake_format.transaction import Surroundings

from .look import rows_by_id
from .operations import Operation
from .state import ImpossibleError, RefusedError, State
from .world import World


@dataclass(frozen=True)
class Done:
    """One call: the versions its writer saw before and after it."""

    writer: str
    operation: Operation
    before: int
    after: int
    error: LakeError | None


def run_threads(world: World, plans: Sequence[Sequence[Operation]]) -> list[Done]:
    """Run each plan in a thread of its own, all at once; operations must leave the columns as they are."""
    gate, done = threading.Barrier(len(plans)), list[Done]()
    wrong: list[BaseException] = []
    start = world.latest

    def work(number: int, plan: Sequence[Operation]) -> None:
        name = f"writer-{number}"
        table = lake.open("unused", store=world.store, surroundings=Surroundings(writer_id=name))
        gate.wait()
        for operation in plan:
            before, error = table.refresh().version, None
            try:
                operation.run(table, start)
            except LakeError as found:
                error = found
                table.refresh()
            except BaseException as found:  # noqa: BLE001 - raised again below
                wrong.append(found)
                return
            done.append(Done(name, operation, before, table.version, error))

    threads = [threading.Thread(target=work, args=each) for each in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    return done


def check_history(world: World, done: Sequence[Done]) -> None:
    """Every version follows from the one before, and every error had a reason."""
    table = world.open()
    writers = {entry["version"]: entry["writer_id"] for entry in table.versions()}
    for number in range(world.newest + 1, table.version + 1):
        call = _call_of(done, writers[number], number)
        found = rows_by_id(table.checkout(number), world.latest)
        state = _explained(world, call, found)
        assert state is not None, f"version {number} is not what {call.operation} makes of the one before"
        effect = call.operation.plan(world.versions[call.before])
        assert effect is not None
        world.land(replace(state), effect)
    for call in done:
        if call.error is not None:
            _check_error(world, call)


def _call_of(done: Sequence[Done], writer: str, number: int) -> Done:
    return next(
        call
        for call in done
        if call.writer == writer and call.before < number <= call.after and call.error is None
    )


def _explained(world: World, call: Done, found: dict[int, dict[str, object]]) -> State | None:
    for base in range(world.newest, call.before - 1, -1):
        try:
            effect = call.operation.plan(world.versions[base])
            assert effect is not None
            state = effect.apply(world.latest)
        except (RefusedError, ImpossibleError):
            continue
        if state.shown() == found:
            return state
    return None


def _check_error(world: World, call: Done) -> None:
    if isinstance(call.error, ConflictError):
        assert call.after > call.before, f"{call.operation} met nobody: {call.error}"
        return
    for base in range(call.before, call.after + 1):
        try:
            call.operation.plan(world.versions[base])
        except RefusedError as refused:
            if isinstance(call.error, refused.errors):
                return
    raise AssertionError(f"{call.operation} failed for no reason") from call.error
