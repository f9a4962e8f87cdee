"""A table, what it should hold at every version, and writers whose commits meet in every way.

A writer's commit may be planned on an old version (its table object is behind) and may be overtaken by a rival
between plan and commit. What may come of it: an error that the conflict matrix allows; else the effect that was
planned, applied to the newest version; or, where the matrix says so, the effect planned anew there.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from uuid import UUID

import lake_format as lake
from lake_format.conflicts import Action, load_matrix
from lake_format.errors import ConflictError, InvalidInputError, LakeError, NotFoundError
from lake_format.store import Store
from lake_format.transaction import Surroundings

from .copies import Copies
from .interposed import InterposedStore
from .look import Look, check_difference, check_rows, check_schema, look_at, rows_by_id
from .operations import Append, Operation
from .state import NUMBERS, Column, Effect, ImpossibleError, RefusedError, State, meets

START = (
    Column("id", "int64", nullable=False, number=0),
    Column("n", "int8", number=1),
    Column("name", "string", number=2),
    Column("v", "vector3", number=3),
    Column("h", "vector2", number=4),
    Column("s", "struct", members=(Column("a", "int8", number=6), Column("b", "string", number=7)), number=5),
)


class World:
    """One table in one store, with writers, and the states of all its versions."""

    def __init__(self, store: Store, *, writers: int, keyed: bool, properties: dict[str, Any]) -> None:
        NUMBERS.begin()
        ids = itertools.count(1)
        around = Surroundings(
            sleep=lambda _seconds: None, chance=lambda: 0.5, new_id=lambda: UUID(int=next(ids))
        )
        given = {name: str(value) for name, value in properties.items()}
        self._begin(store, around, None, given.get("write.isolation") == "serializable")
        state = State(START, key=0 if keyed else None, properties=given)
        lake.create(
            "unused",
            state.schema,
            key="id" if keyed else None,
            properties=properties,
            store=store,
            surroundings=self._around,
        )
        self.copies = Copies(store)
        self.land(state, Effect(kind="create"))
        self.start_writers(writers)

    def _begin(self, store: Store, around: Surroundings, branch: str | None, serializable: bool) -> None:
        self.store, self._around, self._branch, self.serializable = store, around, branch, serializable
        self.versions: dict[int, State] = {}
        self.effects: dict[int, Effect] = {}
        self.collected: set[int] = set()
        self.newest = 0
        self._reader: lake.Table | None = None
        self.field_ids: dict[int, int] = {}

    def branched(self, name: str, state: State) -> World:
        """The same table on a branch, whose first version has that state; a world of its own."""
        found = World.__new__(World)
        found._begin(self.store, self._around, name, self.serializable)
        found.copies = self.copies
        found.land(state, Effect(kind="create"))
        found.start_writers(1)
        return found

    def start_writers(self, count: int) -> None:
        """Open the table for some writers, each behind a store of its own."""
        self.stores = [InterposedStore(self.store) for _ in range(count)]
        self.handles = [self.open(store) for store in self.stores]

    @property
    def latest(self) -> State:
        return self.versions[self.newest]

    def open(self, store: Any = None, version: int | None = None) -> lake.Table:
        return lake.open(
            "unused", version, branch=self._branch, store=store or self.store, surroundings=self._around
        )

    def reader(self) -> lake.Table:
        """A table object of its own at the newest version, opened once for each."""
        if self._reader is None or self._reader.version != self.newest:
            self._reader = self.open()
        return self._reader

    def reopen(self, writer: int) -> None:
        self.handles[writer] = self.open(self.stores[writer])

    def land(self, state: State, effect: Effect) -> None:
        self.newest += 1
        self.versions[self.newest] = replace(state, number=self.newest, asked_at=None, history=self.versions)
        self.effects[self.newest] = effect

    # --- one step -----------------------------------------------------------------------------------------

    def execute(self, writer: int, operation: Operation, rival: tuple[int, Operation] | None = None) -> None:
        """Run an operation; ``rival`` commits right before its first commit, if it comes to one."""
        handle = self.handles[writer]
        newest = operation.plans_on_newest(self.versions[handle.version].key is not None)
        base = self.latest if newest else self.versions[handle.version]
        try:
            effect, refused = operation.plan(base), None
        except RefusedError as error:
            effect, refused = Effect(kind="none"), error.errors
        if effect is None:
            return
        if rival is not None and rival[0] != writer:
            other, theirs = rival
            self.stores[writer].meanwhile = lambda: self.execute(other, theirs)
        try:
            operation.run(handle, base)
        except LakeError as error:
            self.stores[writer].raise_failure()
            self._judge_error(operation, base, effect, refused, error)
        else:
            self.stores[writer].raise_failure()
            assert refused is None, f"{operation} was not refused"
            self._judge_success(operation, base, effect)
        finally:
            self.stores[writer].meanwhile = None
        if effect.kind == "collect":
            gone = {number for number in self.versions if not self.latest.keeps(number)}
            self.collected |= gone - self.copies.pinned
        check_schema(self.reader(), self.latest)

    def since(self, base: State) -> list[Effect]:
        """What was done after a version."""
        return [self.effects[number] for number in range(base.number + 1, self.newest + 1)]

    def _actions(self, effect: Effect, base: State, *, certainly: bool) -> set[Action]:
        """What the conflict matrix asks for, as far as the model can tell; yielding is nothing a user sees."""
        matrix, found = load_matrix(), set()
        for theirs in self.since(base):
            if effect.kind in matrix.kinds and theirs.kind in matrix.kinds:
                found |= {
                    action
                    for condition, action in matrix.rules(effect.kind, theirs.kind, self.serializable)
                    if action is Action.REPLAN or meets(condition, effect, theirs, certainly=certainly)
                }
        return found

    def _replanned(self, operation: Operation, base: State) -> Effect | None:
        """The same request on the newest version: the columns it named are those of its base."""
        return operation.plan(replace(self.latest, columns=base.columns, asked_at=base.number))

    def _judge_error(
        self,
        operation: Operation,
        base: State,
        effect: Effect,
        refused: tuple[type[Exception], ...] | None,
        error: LakeError,
    ) -> None:
        allowed = set(refused or ())
        if refused is None and self.newest > base.number:
            actions = self._actions(effect, base, certainly=False)
            # What cannot be planned anew without its user (an index, rows written already) is refused as well.
            if Action.CONFLICT in actions or Action.REPLAN in actions:
                allowed.add(ConflictError)
            gone = {one.number for one in base.columns} - {one.number for one in self.latest.columns}
            if Action.REPLAN in actions and gone:  # rows handed in for a column that others dropped
                allowed.add(InvalidInputError)
            if base.number < self.latest.horizon:
                allowed |= {ConflictError, NotFoundError}
            try:
                effect.apply(self.latest)
                again = self._replanned(operation, base)
                if again is not None:
                    again.apply(self.latest)
            except RefusedError as found:
                allowed |= set(found.errors)
            except ImpossibleError:
                allowed |= {ConflictError, InvalidInputError}
        if not isinstance(error, tuple(allowed)):
            raise error
        assert self.open().version == self.newest, f"{error!r}, but a version landed"

    def _judge_success(self, operation: Operation, base: State, effect: Effect) -> None:
        if isinstance(operation, Append) and operation.is_done(
            self.latest
        ):  # a rival did the same job meanwhile
            effect = operation.plan(self.latest)
        must = self._actions(effect, base, certainly=True)
        assert Action.CONFLICT not in must, f"{operation} overwrote what others did meanwhile"
        candidates = [self._applied(effect, self.latest)]
        if Action.REPLAN in must:
            try:
                again = self._replanned(operation, base)
            except RefusedError:
                again = None
            if again is not None:  # whoever plans anew knows the columns that came meanwhile
                unsaid = dict.fromkeys(column.number for column in self.latest.columns)
                told = replace(again, inserts=tuple({**unsaid, **row} for row in again.inserts))
                candidates += [self._applied(one, self.latest) for one in (again, told)]
        states = [state for state in candidates if state is not None]
        assert states, f"{operation} cannot be done"
        table = self._reader = self.open()
        landed = table.version - self.newest
        assert effect.commits is None or landed in effect.commits, f"{landed} commits"
        found = rows_by_id(table, self.latest if not landed else states[0])
        states = [reordered(one, self.latest, found) for one in states]
        state = next((one for one in states if one.shown() == found), None)
        if state is None:
            raise AssertionError(_different(found, states[0].shown()))
        if not landed:
            assert state.shown() == self.latest.shown()
        for _ in range(landed):
            self.land(state, effect)

    def _applied(self, effect: Effect, state: State) -> State | None:
        try:
            return effect.apply(state)
        except ImpossibleError:
            return None

    def check_landed(self) -> None:
        """The version that somebody just landed is the newest, and holds what it should."""
        table = self._reader = self.open()
        assert table.version == self.newest
        check_schema(table, self.latest)
        found = rows_by_id(table, self.latest)
        state = reordered(self.latest, self.versions[self.newest - 1], found)
        assert found == state.shown(), _different(found, state.shown())
        self.versions[self.newest] = state

    # --- looking ------------------------------------------------------------------------------------------

    def look(self, asked: Look) -> None:
        """Ask the newest version, an older one, and every table object, and compare with the model."""
        table = self.reader()
        assert table.version == self.newest
        assert table.tags() == dict(self.latest.tags)
        assert {name: table.properties.get(name) for name in self.latest.properties} == self.latest.properties
        assert len(table.key) == (self.latest.key is not None)
        look_at(table, self.latest, asked)
        if asked.asks("verify"):
            problems = table.verify().problems
            assert problems == [], problems
            self.check_field_ids()
            for handle in self.handles:
                if self.latest.keeps(handle.version):
                    assert handle.count() == len(self.versions[handle.version].rows)
        if asked.asks("older"):
            self._look_back(table, max(1, self.newest - asked.back), asked)

    def _look_back(self, table: lake.Table, number: int, asked: Look) -> None:
        state = self.versions[number]
        if self.latest.keeps(number):
            older = table.checkout(number)
            check_schema(older, state)
            check_rows(older, state)
            look_at(older, state, asked)
            check_difference(table, state, self.latest)
        elif number in self.collected:
            self._check_gone(number)

    def _check_gone(self, number: int) -> None:
        try:
            self.open(version=number)
        except NotFoundError:
            return
        raise AssertionError(f"version {number} expired and was collected, but opens")

    def check_field_ids(self) -> None:
        """A column keeps its id for life, and no other column ever has it."""
        for column, field in zip(self.latest.columns, self.reader().snapshot.schema, strict=True):
            own = int(field.metadata[b"PARQUET:field_id"])
            assert self.field_ids.setdefault(column.number, own) == own
        assert len(set(self.field_ids.values())) == len(self.field_ids)


def reordered(state: State, before: State, found: dict[int, dict[str, Any]]) -> State:
    """The same with row ids of new rows as they were found: rows that are written in some order get ids in it."""
    new = sorted(state.rows.keys() - before.rows.keys())
    places: dict[str, list[int]] = {}
    for row_id in new:
        places.setdefault(repr(sorted(state.show(state.rows[row_id]).items())), []).append(row_id)
    taken: dict[int, int] = {}
    for row_id in new:
        same = places.get(repr(sorted(found.get(row_id, {}).items())))
        if not same:
            return state
        taken[row_id] = same.pop(0)
    return replace(state, rows={**state.rows, **{now: state.rows[old] for now, old in taken.items()}})


def _different(found: dict[int, Any], expected: dict[int, Any]) -> str:
    wrong = [i for i in sorted(found.keys() | expected.keys()) if found.get(i) != expected.get(i)]
    some = [f"row {i}: found {found.get(i)}, expected {expected.get(i)}" for i in wrong[:2]]
    return f"{len(wrong)} rows differ, such as {'; '.join(some)}"
