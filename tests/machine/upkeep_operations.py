"""Operations on indexes, versions and files: what they do to rows is nothing, or to make older ones current."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import strategies as st

import lake_format as lake
from lake_format.errors import AlreadyExistsError, InvalidInputError, NotFoundError

from .operations import ONCE_OR_NOT, Operation
from .state import ID, Column, Effect, ImpossibleError, RefusedError, State

METRICS = ("l2", "cosine", "ip")
TAGS = ("t", "release/1")


@dataclass(frozen=True)
class CreateIndex(Operation):
    column: int
    metric: str
    refreshes: ClassVar[bool] = False

    def _column(self, state: State) -> Column | None:
        return state.pick(self.column, lambda one: one.kind.startswith("vector"))

    def plan(self, state: State) -> Effect | None:
        column = self._column(state)
        if column is None:
            return None
        if all(row.get(column.number) is None for row in state.rows.values()):
            raise RefusedError(InvalidInputError)
        name = f"{column.name}_{self.metric}"
        entry = (column.number, self.metric)
        return Effect(
            kind="create_index",
            edit=lambda now: replace(now, indexes={**now.indexes, name: entry}),
            reads=frozenset({column.number}),
            claims=frozenset({f"index:{name}"}),
        )

    def run(self, table: lake.Table, state: State) -> Any:
        column = self._column(state)
        assert column is not None
        return table.create_index(column.name, self.metric)


@dataclass(frozen=True)
class DropIndex(Operation):
    index: int

    def plan(self, state: State) -> Effect | None:
        if not state.indexes:
            return None
        name = self._name(state)

        def edit(now: State) -> State:
            return replace(now, indexes={one: own for one, own in now.indexes.items() if one != name})

        return Effect(kind="drop_index", edit=edit, claims=frozenset({f"index:{name}"}))

    def _name(self, state: State) -> str:
        return sorted(state.indexes)[self.index % len(state.indexes)]

    def run(self, table: lake.Table, state: State) -> Any:
        return table.drop_index(self._name(state))


@dataclass(frozen=True)
class OptimizeIndex(Operation):
    """Let indexes catch up."""

    retrain: bool | None

    def plan(self, state: State) -> Effect:
        return Effect(kind="optimize_index", commits=None)

    def run(self, table: lake.Table, state: State) -> Any:
        return table.optimize_index(retrain=self.retrain)


@dataclass(frozen=True)
class SetProperty(Operation):
    name: str
    value: str | None
    refreshes: ClassVar[bool] = False

    def plan(self, state: State) -> Effect:
        def edit(now: State) -> State:
            others = {name: value for name, value in now.properties.items() if name != self.name}
            return replace(
                now, properties=others if self.value is None else {**others, self.name: self.value}
            )

        return Effect(kind="set_properties", edit=edit, claims=frozenset({f"property:{self.name}"}))

    def run(self, table: lake.Table, state: State) -> Any:
        return table.set_properties({self.name: self.value})


@dataclass(frozen=True)
class Compact(Operation):
    target_rows: int
    deleted_share: float

    def plan(self, state: State) -> Effect:
        return Effect(kind="compact", commits=None)

    def run(self, table: lake.Table, state: State) -> Any:
        return table.compact(self.target_rows, deleted_share=self.deleted_share)


@dataclass(frozen=True)
class Cluster(Operation):
    """Bring rows into the order of a column."""

    column: int | None
    everything: bool

    def _name(self, state: State) -> str:
        column = None if self.column is None else state.pick(self.column, _has_order)
        return state.columns[_place_of_id(state)].name if column is None else column.name

    def plan(self, state: State) -> Effect:
        return Effect(kind="cluster", commits=None)

    def run(self, table: lake.Table, state: State) -> Any:
        return table.cluster(self._name(state), everything=self.everything)


@dataclass(frozen=True)
class SetClustering(Cluster):
    """Order rows by a column from now on."""

    def plan(self, state: State) -> Effect:
        return Effect(kind="set_properties", claims=frozenset({"property:clustering"}))

    def run(self, table: lake.Table, state: State) -> Any:
        return table.set_clustering(None if self.everything else self._name(state))


@dataclass(frozen=True)
class SetPartitioning(Operation):
    """Part rows by the column that is never dropped, from now on."""

    transform: str | None

    def plan(self, state: State) -> Effect:
        return Effect(kind="set_properties", claims=frozenset({"property:partitioning"}))

    def run(self, table: lake.Table, state: State) -> Any:
        name = state.columns[_place_of_id(state)].name
        return table.set_partitioning([] if self.transform is None else self.transform.format(name))


@dataclass(frozen=True)
class SetKey(Operation):
    """The column that is never dropped tells rows apart from now on."""

    def plan(self, state: State) -> Effect:
        if len({row[ID] for row in state.rows.values()}) < len(state.rows):
            raise RefusedError(lake.DuplicateKeyError)
        return Effect(
            kind="set_properties",
            edit=lambda now: replace(now, key=ID),
            reads=frozenset({ID}),
            claims=frozenset({"property:key"}),
            required=True,
        )

    def run(self, table: lake.Table, state: State) -> Any:
        return table.set_key(state.columns[_place_of_id(state)].name)


@dataclass(frozen=True)
class DropKey(Operation):
    """Rows may be there twice from now on."""

    def plan(self, state: State) -> Effect:
        if state.key is None:
            raise RefusedError(InvalidInputError)
        return Effect(
            kind="set_properties",
            edit=lambda now: replace(now, key=None),
            claims=frozenset({"property:key"}),
        )

    def run(self, table: lake.Table, state: State) -> Any:
        return table.drop_key()


def _has_order(column: Column) -> bool:
    return column.kind.startswith(("int", "string", "float"))


def _place_of_id(state: State) -> int:
    return next(place for place, one in enumerate(state.columns) if one.number == ID)


@dataclass(frozen=True)
class MoveTag(Operation):
    """Name the version the table object reads, or an older one; or take the name away."""

    name: str
    back: int | None
    move: bool
    refreshes: ClassVar[bool] = False

    def plan(self, state: State) -> Effect:
        number = self._number(state)
        if number is not None and number < state.horizon and number not in state.tags.values():
            raise RefusedError(NotFoundError, AlreadyExistsError)
        if number is None and self.name not in state.tags:
            raise RefusedError(NotFoundError)
        if number is not None and not self.move and state.tags.get(self.name, number) != number:
            raise RefusedError(AlreadyExistsError)

        def edit(now: State) -> State:
            others = {name: one for name, one in now.tags.items() if name != self.name}
            return replace(now, tags=others if number is None else {**others, self.name: number})

        return Effect(kind="set_ref", edit=edit, claims=frozenset({f"tag:{self.name}"}))

    def _number(self, state: State) -> int | None:
        return None if self.back is None else max(1, state.reading - self.back)

    def run(self, table: lake.Table, state: State) -> Any:
        if self.back is None:
            return table.delete_tag(self.name)
        return table.tag(self.name, self._number(state), move=self.move)


@dataclass(frozen=True)
class Restore(Operation):
    back: int
    refreshes: ClassVar[bool] = False

    def plan(self, state: State) -> Effect:
        old = state.older(max(1, state.reading - self.back))
        if old is None:
            raise RefusedError(NotFoundError)
        if state.key not in (None, old.key):
            raise RefusedError(InvalidInputError)

        def edit(now: State) -> State:
            if now.key not in (None, old.key):
                raise ImpossibleError("rows that were never held to the key")
            return replace(now, columns=old.columns, rows=old.rows, indexes=old.indexes)

        return Effect(kind="restore", edit=edit)

    def run(self, table: lake.Table, state: State) -> Any:
        return table.restore(max(1, state.reading - self.back))


@dataclass(frozen=True)
class Expire(Operation):
    keep: int

    def plan(self, state: State) -> Effect:
        horizon = max(state.horizon, state.number - self.keep + 1)
        commits = ONCE_OR_NOT
        return Effect(
            kind="expire", edit=lambda now: replace(now, horizon=max(now.horizon, horizon)), commits=commits
        )

    def run(self, table: lake.Table, state: State) -> Any:
        return table.expire_versions(keep=self.keep)


@dataclass(frozen=True)
class Collect(Operation):
    def plan(self, state: State) -> Effect:
        return Effect(kind="collect", commits=frozenset({0}))

    def run(self, table: lake.Table, state: State) -> Any:
        would = table.collect_garbage(grace=timedelta(0))
        done = table.collect_garbage(dry_run=False, grace=timedelta(0))
        assert (would.objects, would.versions, would.bytes) == (done.objects, done.versions, done.bytes)
        assert table.collect_garbage(grace=timedelta(0)).objects == []
        return done


OPERATIONS: list[st.SearchStrategy[Operation]] = [
    st.builds(CreateIndex, column=st.integers(0, 3), metric=st.sampled_from(METRICS)),
    st.builds(DropIndex, st.integers(0, 3)),
    st.builds(OptimizeIndex, st.none() | st.booleans()),
    st.builds(
        SetProperty,
        st.just("write.update-strategy"),
        st.none() | st.sampled_from(["patch", "move", "rewrite"]),
    ),
    st.builds(SetProperty, st.just("write.layout"), st.sampled_from([None, "open", "open"])),
    st.builds(SetProperty, st.just("user.note"), st.none() | st.sampled_from(["a", "b"])),
    st.builds(Compact, target_rows=st.sampled_from([2, 8, 1000]), deleted_share=st.sampled_from([0.01, 0.5])),
    st.builds(Cluster, st.none() | st.integers(0, 4), st.booleans()),
    st.builds(SetClustering, st.none() | st.integers(0, 4), st.booleans()),
    st.builds(SetPartitioning, st.sampled_from([None, "{}", "bucket(3, {})", "truncate(4, {})"])),
    st.builds(MoveTag, name=st.sampled_from(TAGS), back=st.none() | st.integers(0, 6), move=st.booleans()),
    st.builds(Restore, back=st.integers(0, 8)),
    st.builds(Expire, keep=st.integers(1, 8)),
    st.just(SetKey()),
    st.just(DropKey()),
    st.just(Collect()),
]
