"""The identity rules as an executable model, run by hypothesis, and rules switched off to see it notice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from model.checks import check_table
from model.effects import (
    AddColumn,
    Append,
    Cluster,
    Compact,
    CreateIndex,
    Delete,
    Expire,
    Intent,
    OptimizeIndex,
    RefusedError,
    Restore,
    Set,
    SetProperty,
    Update,
    Upsert,
    Where,
)
from model.key_hash import key_hash
from model.machine import TableMachine
from model.scenarios import make_table
from model.state import KEY, LINE_STRIDE, VECTOR, Snapshot, ViolationError
from model.table import ConflictError, Faults, LostResponseError, ModelTable, YieldedError

from lake_format.conflicts import Matrix, load_matrix

QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_any_interleaving_gives_the_truth() -> None:
    """spec: CON-1, CON-7, IDN-1, IDN-4, IDN-5, IDN-6, IDN-7, IDN-11. `make test-long` runs it for longer."""
    run_state_machine_as_test(
        TableMachine, settings=settings(max_examples=20, stateful_step_count=20, **QUIET)
    )


@pytest.mark.long
def test_any_interleaving_gives_the_truth_for_long() -> None:
    run_state_machine_as_test(
        TableMachine, settings=settings(max_examples=2500, stateful_step_count=40, **QUIET)
    )


def _without(condition: str) -> Matrix:
    matrix = load_matrix()
    snapshot, serializable = (
        {cell: tuple(rule for rule in rules if rule[0] != condition) for cell, rules in cells.items()}
        for cells in (matrix.snapshot, matrix.serializable)
    )
    return replace(matrix, snapshot=snapshot, serializable=serializable)


@pytest.mark.parametrize(
    "switched_off",
    [
        {"matrix": _without("fragment_gone")},
        {"faults": Faults(line_ids=False)},
        {"faults": Faults(idempotency=False)},
    ],
    ids=["fragment_gone", "line_ids", "idempotency"],
)
def test_hypothesis_finds_a_rule_switched_off(switched_off: dict[str, object]) -> None:
    """Mutation: the machine above is only worth its time if it fails here."""
    weaker = type("WeakerMachine", (TableMachine,), switched_off)
    chosen = settings(
        max_examples=400,
        stateful_step_count=30,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        **QUIET,
    )
    with pytest.raises((ViolationError, KeyError)):
        run_state_machine_as_test(weaker, settings=chosen)


def _vectors(snapshot: Snapshot) -> dict[int, int | None]:
    return {r: v for shard in snapshot.indexes["by_vec"].shards for r, v in shard.answers().items()}


@pytest.mark.parametrize(
    "between",
    [
        Append((((KEY, 20), (VECTOR, 1)), ((KEY, 21), (VECTOR, 2)))),
        Compact((0, 1, 2)),
        Cluster((0, 1, 2), VECTOR),
        Update(Where(KEY, 2), (Set(2, 8),), "move"),
        Update(Where(KEY, 2), (Set(VECTOR, 8),), "group"),
        Delete(Where(KEY, 3)),
        OptimizeIndex("by_vec"),
    ],
)
def test_ordinals_survive_whatever_comes_between(between: Intent) -> None:
    """spec: IDN-8, IDN-9. A writer's shard, made before its rows had ids, says the right thing after a rebase."""
    table = make_table(True)
    mine = table.begin(
        0, Upsert((((KEY, 30), (VECTOR, 3)), ((KEY, 1), (VECTOR, 5)), ((KEY, 29), (VECTOR, 4))), indexed=True)
    )
    planned = next(iter(mine.plan.shards.values()))[1]
    table.run(between)
    latest = table.commit(mine)
    check_table(table)
    rows = latest.rows()
    said = {
        rows[r][KEY]: value
        for r, value in _vectors(latest).items()
        if rows.get(r, {}).get(KEY) in (1, 29, 30)
    }
    assert said == {1: 5, 29: 4, 30: 3}
    mine_in_it = [s for s in latest.indexes["by_vec"].shards if s.shard_id == planned.shard_id]
    assert [s.encoded for s in mine_in_it] == [planned.encoded]


def test_ordinals_survive_rows_of_two_lines() -> None:
    """spec: IDN-8. New rows of main rank below rows merged from a branch, before and after a rebase."""
    table = make_table(True)
    branch = table.fork(0)
    table.run(Append((((KEY, 40), (VECTOR, 1)),)), branch)
    table.merge(branch)
    mine = table.begin(0, Upsert((((KEY, 40), (VECTOR, 7)), ((KEY, 41), (VECTOR, 6))), indexed=True))
    table.run(Append((((KEY, 50), (VECTOR, 2)),)))
    latest = table.commit(mine)
    check_table(table)
    assert sorted(_vectors(latest))[-1] == LINE_STRIDE
    assert _vectors(latest)[LINE_STRIDE] == 7


def test_branches_never_hand_out_the_same_row_id() -> None:
    """spec: IDN-3. And a merge takes rows over with the ids they have."""
    table = make_table(True)
    one, two = table.fork(0), table.fork(0)
    for line, key in ((0, 20), (one, 21), (two, 22), (one, 23)):
        table.run(Append((((KEY, key),),)), line)
    for branch in (one, two):
        table.merge(branch)
    check_table(table)
    ids = {row[KEY]: row_id for row_id, row in table.lines[0].latest.rows().items() if row[KEY] >= 20}
    assert ids == {20: 6, 21: LINE_STRIDE, 22: 2 * LINE_STRIDE, 23: LINE_STRIDE + 1}


def test_a_merge_is_refused_where_a_replay_would_need_a_new_plan() -> None:
    """spec: CON-11"""
    table = make_table(True)
    branch = table.fork(0)
    table.run(Append((((KEY, 20),),)), branch)
    table.run(Append((((KEY, 20),),)))
    with pytest.raises(ConflictError, match="both bring the same key"):
        table.merge(branch)
    check_table(table)


def test_a_clone_goes_on_as_a_line_of_its_source_and_pins_it() -> None:
    """spec: IDN-3, IDN-20. Rows merged from a branch keep their ids in the clone; its own branch repeats none."""
    table = make_table(True)
    branch = table.fork(0)
    table.run(Append((((KEY, 20),),)), branch)
    table.merge(branch)
    shared = table.lines[0].latest.number
    clone = table.clone(0)
    (main,) = clone.lines
    further = clone.fork(main)
    clone.run(Append((((KEY, 21),),)), further)
    clone.run(Append((((KEY, 22),),)), main)
    clone.merge(further)
    check_table(clone)
    ids = {row[KEY]: row_id for row_id, row in clone.lines[main].latest.rows().items() if row[KEY] >= 20}
    assert ids == {20: LINE_STRIDE, 21: 3 * LINE_STRIDE, 22: 2 * LINE_STRIDE}
    table.run(SetProperty("x", 1))
    table.run(Expire(table.lines[0].latest.number))
    table.collect(0)
    assert shared in table.lines[0].versions
    assert shared - 2 not in table.lines[0].versions


def test_what_was_meant_by_row_id_is_carried_along() -> None:
    """spec: IDN-12, CON-12. Past a compaction; the record tells of the fragment that was touched in the end."""
    table = make_table(True)
    mine = table.begin(0, Update(Where(KEY, 2), (Set(2, 8),), "group"))
    gone = table.begin(0, Update(Where(KEY, 3), (Set(2, 8),), "move"))
    latest = table.run(Compact((0, 1)))
    (successor,) = set(latest.fragments) - {2}
    assert mine.plan.record.fragments_rewritten == {0}
    assert table.commit(mine).records[0].fragments_rewritten == {successor}
    table.run(Delete(Where(KEY, 3)))
    assert [f.row_ids for f in table.commit(gone).fragments.values() if 2 in f.row_ids] == [(0, 1, 2, 3)]
    check_table(table)


def test_two_columns_added_at_once_get_two_field_ids() -> None:
    """spec: IDN-16"""
    table = make_table(True)
    mine, theirs = (table.begin(0, AddColumn(name, Set(0, n, 3))) for name, n in (("x", 1), ("y", 2)))
    table.commit(theirs)
    latest = table.commit(mine)
    check_table(table)
    assert {column.name: field_id for field_id, column in latest.columns.items() if field_id > 5} == {
        "y": 6,
        "x": 7,
    }
    branch = table.fork(0)
    table.run(AddColumn("z"), branch)
    table.run(AddColumn("w"))
    with pytest.raises(ConflictError):
        table.merge(branch)


@pytest.mark.parametrize(
    "theirs", [Append((((KEY, 30),),)), Upsert((((KEY, 30),),)), Update(Where(KEY, 6), (Set(KEY, 30),))]
)
def test_a_key_is_never_there_twice(theirs: Intent) -> None:
    """spec: IDN-13, IDN-15. Who comes second with a key is told (append) or finds the row (upsert)."""
    table = make_table(True)
    append, upsert = table.begin(0, Append((((KEY, 30),),))), table.begin(0, Upsert((((KEY, 30), (3, 9)),)))
    table.run(theirs)
    with pytest.raises(ConflictError, match="both bring the same key"):
        table.commit(append)
    latest = table.commit(upsert)
    assert [row[3] for row in latest.rows().values() if row[KEY] == 30] == [9]
    with pytest.raises(RefusedError, match="NULL or taken"):
        table.run(Append((((3, 1),),)))
    check_table(table)


def test_upkeep_gives_way_and_hinders_nobody() -> None:
    """spec: CON-8"""
    table = make_table(True)
    upkeep, user = table.begin(0, Compact((0, 1))), table.begin(0, Update(Where(), (Set(2, 1),), "group"))
    table.run(OptimizeIndex("by_vec"))
    table.run(Cluster((1, 2), VECTOR))
    table.commit(user)
    with pytest.raises(YieldedError):
        table.commit(upkeep)
    check_table(table)


def test_a_time_is_found_in_three_requests() -> None:
    """spec: IDN-21"""
    newest, requests = 100_000, []
    times = [number * 10 for number in range(newest + 1)]  # the time of each version

    def checkpoint(number: int) -> tuple[dict[int, int], dict[int, int]]:
        requests.append(number)
        since = (number - 1) // 1024 * 1024
        own = {n: times[n] for n in range(since + 1, number + 1)}
        return own, {n: times[n] for n in range(1024, since + 1, 1024)}

    def version_at(time: int) -> int:
        own = {n: times[n] for n in range(newest // 32 * 32 + 1, newest + 1)}  # in the latest version object
        if not own or time < min(own.values()):
            own, earlier = checkpoint(newest // 32 * 32)
            if time < min(own.values()):
                first_after = min((n for n, at in earlier.items() if at > time), default=max(earlier))
                at_boundary = [n for n, at in earlier.items() if at == time]
                own, _ = checkpoint(at_boundary[0] if at_boundary else first_after)
        found = max(n for n, at in own.items() if at <= time)
        requests.append(found)
        return found

    for number in (1, 2, 1023, 1024, 1025, 2048, 55_555, 99_327, 99_328, 99_329, 99_999, 100_000):
        requests.clear()
        assert version_at(number * 10 + 1 if number % 1024 else number * 10) == number
        assert len(requests) <= 3


def test_a_lost_response_is_settled_by_reading_back() -> None:
    """spec: IDN-17"""

    def run(faults: Faults) -> ModelTable:
        table = ModelTable(False, faults=faults)
        attempt = table.begin(0, Append((((KEY, 1),),)))
        table.prepare(attempt)
        with pytest.raises(LostResponseError):
            table.claim(attempt, lose_response=True)
        table.run(Append((((KEY, 2),),)))
        if not table.claim(attempt):
            table.commit(attempt)
        return table

    check_table(run(Faults()))
    with pytest.raises(ViolationError, match="committed twice"):
        check_table(run(Faults(read_back=False)))


def test_a_retried_job_commits_once() -> None:
    """spec: IDN-18"""

    def run(faults: Faults) -> ModelTable:
        table = ModelTable(False, faults=faults)
        for _ in range(2):
            table.commit(table.begin(0, Append((((KEY, 1),),)), "job", 7))
        return table

    check_table(run(Faults()))
    with pytest.raises(ViolationError, match="committed twice"):
        check_table(run(Faults(idempotency=False)))


def test_a_stalled_writer_cannot_take_a_collected_number() -> None:
    """spec: IDN-19"""

    def run(faults: Faults) -> ModelTable:
        table = make_table(False)
        table.faults = faults
        stalled = table.begin(0, Append((((KEY, 1),),)))
        table.prepare(stalled)
        for key in range(3):
            table.run(Append((((KEY, key),),)))
        table.run(Expire(table.lines[0].latest.number))
        table.collect(0)
        assert not table.claim(stalled)
        with pytest.raises(RefusedError, match="horizon"):
            table.prepare(stalled)
        return table

    check_table(run(Faults()))
    with pytest.raises(ViolationError, match="a second time"):
        run(Faults(keep_names=False))


def test_a_base_before_the_horizon_is_refused() -> None:
    """spec: IDN-19. Without the rule an overlap is not seen, because its record is gone."""

    def run(faults: Faults) -> None:
        table = make_table(True)
        table.faults = faults
        late = table.begin(0, Append((((KEY, 20),),)))
        table.run(Append((((KEY, 20),),)))
        table.run(Delete(Where(KEY, 6)))
        table.run(Expire(table.lines[0].latest.number))
        table.collect(0)
        table.commit(late)

    with pytest.raises(RefusedError, match="horizon"):
        run(Faults())
    with pytest.raises(ViolationError, match="is refused"):
        run(Faults(check_horizon=False))


def test_a_restore_does_not_turn_back_the_counter() -> None:
    """spec: IDN-2"""

    def run(faults: Faults) -> None:
        table = make_table(False)
        table.faults = faults
        table.run(Append((((KEY, 20),),)))
        table.run(Restore(2))
        table.run(Append((((KEY, 21),),)))
        check_table(table)

    run(Faults())
    with pytest.raises(ViolationError):
        run(Faults(keep_counters=False))


def test_an_index_is_never_wrong_only_behind() -> None:
    """spec: IDN-10. A new value is found at once, the old one never, and re-encoding catches up."""
    table = make_table(True)
    mine = table.begin(0, CreateIndex("late", VECTOR))
    table.run(Update(Where(KEY, 1), (Set(VECTOR, 100),), "patch"))
    latest = table.commit(mine)
    assert latest.indexes["late"].shards[0].stale == {0}
    assert latest.search(latest.indexes["late"], 100, 1) == [(0, 0)]
    again = table.run(OptimizeIndex("late"))
    assert again.indexes["late"].shards[0].stale == frozenset()
    check_table(table)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([0], 0x5B6E223632A4C5E0),
        ([42], 0xDEF2BA3F15E48A24),
        ([-1], 0x9A6A1A6113AAE97C),
        (["a"], 0x7E32D9B9B6E471CA),
        (["", "a"], 0xDC2FF00FF1566600),
        (["a", ""], 0x954087433C8FE45E),
        (["quick brown"], 0x52BB709CDB9CE2BA),
        ([1, "x"], 0x9E7D784230A10256),
    ],
)
def test_key_hash_vectors(parts: list[int | str], expected: int) -> None:
    """spec: IDN-14"""
    assert key_hash(parts) == expected
