"""The hypothesis machine: any operation by any writer, rivals in between, and a look after every step."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from lake_format.store import Store, forget_memory, open_store

from . import operations, schema_operations, upkeep_operations
from .branching import Branch
from .look import LOOKS, Look
from .operations import ROWS, Append, Operation, Seeds
from .upkeep_operations import METRICS, CreateIndex
from .world import World

WRITERS = 3
_ROW_CHANGES = st.one_of(operations.OPERATIONS)
_SCHEMA_CHANGES = st.one_of(schema_operations.OPERATIONS)
_UPKEEP = st.one_of(upkeep_operations.OPERATIONS)
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(_ROW_CHANGES, _ROW_CHANGES, _SCHEMA_CHANGES, _UPKEEP)
WORK = st.one_of(_ROW_CHANGES, _ROW_CHANGES, _SCHEMA_CHANGES, _UPKEEP)
_WRITER = st.integers(0, WRITERS - 1)


class TableMachine(RuleBasedStateMachine):
    """One table, three writers."""

    steps = 0

    @initialize(
        keyed=st.booleans(),
        scalar_format=st.sampled_from(["vortex", "auto", "parquet"]),
        fragment_rows=st.sampled_from([3, 8, 1000]),
        update_strategy=st.sampled_from(["auto", "auto", "rewrite", "patch", "move"]),
        index_on_append=st.booleans(),
        isolation=st.sampled_from(["snapshot", "snapshot", "serializable"]),
        many=st.sampled_from([False] * 11 + [True]),
        parts=st.lists(ROWS, max_size=2),
        indexes=st.lists(st.builds(CreateIndex, st.integers(0, 1), st.sampled_from(METRICS)), max_size=2),
    )
    def begin(
        self,
        keyed: bool,
        scalar_format: str,
        fragment_rows: int,
        update_strategy: str,
        index_on_append: bool,
        isolation: str,
        many: bool,
        parts: list[Seeds],
        indexes: list[CreateIndex],
    ) -> None:
        """A table with some history already."""
        properties: dict[str, Any] = {
            "write.scalar-format": scalar_format,
            "write.fragment-rows": 1000 if many else fragment_rows,
            "write.update-strategy": update_strategy,
            "write.index-on-append": "true" if index_on_append else "false",
            "write.isolation": isolation,
        }
        self.world = World(self.new_store(), writers=WRITERS, keyed=keyed, properties=properties)
        if many:
            self.world.execute(0, Append(many_rows()))
        for operation in [*map(Append, parts), *indexes]:
            self.world.execute(0, operation)

    def new_store(self) -> Store:
        return open_store(f"memory://machine-{uuid4().hex}")

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.copies.forget()
            forget_memory(self.world.store.uri)

    def look(self, asked: Look) -> None:
        self.world.look(asked)
        if asked.asks("older"):
            self.world.copies.check_clones()
        type(self).steps += 1

    @rule(writer=_WRITER, operation=OPERATIONS, asked=LOOKS)
    def step(self, writer: int, operation: Operation, asked: Look) -> None:
        """One writer does something; its table object may be behind."""
        self.world.execute(writer, operation)
        self.look(asked)

    @rule(writer=_WRITER, mine=OPERATIONS, other=_WRITER, theirs=OPERATIONS, asked=LOOKS)
    def race(self, writer: int, mine: Operation, other: int, theirs: Operation, asked: Look) -> None:
        """Another writer commits between plan and commit of the first."""
        self.world.execute(writer, mine, (other, theirs))
        self.look(asked)

    @rule(
        inner=st.lists(WORK, max_size=3),
        outer=st.lists(OPERATIONS, max_size=2),
        how=st.sampled_from(["merge", "merge", "fast-forward", "none"]),
        more=st.lists(WORK, max_size=2),
        asked=LOOKS,
    )
    def branch(
        self, inner: list[Operation], outer: list[Operation], how: str, more: list[Operation], asked: Look
    ) -> None:
        """Work goes on on two lines, and comes together or does not."""
        branch = Branch(self.world)
        branch.work(inner)
        for operation in outer:
            self.world.execute(0, operation)
        branch.world.look(asked)
        if how == "merge":
            branch.merge()
        elif how == "fast-forward":
            branch.fast_forward()
        branch.work(more)
        branch.world.look(asked)
        branch.delete()
        self.look(asked)

    @rule(back=st.integers(0, 6), cloned=st.booleans(), asked=LOOKS)
    def copy(self, back: int, cloned: bool, asked: Look) -> None:
        """Clone a version, or back one up and bring one back."""
        table = self.world.open()
        state = self.world.versions[max(1, self.world.newest - back)]
        if not self.world.latest.keeps(state.number):
            return
        if cloned:
            self.world.copies.clone(table, state)
        else:
            self.world.copies.back_up(table, state, asked.back)
        self.look(asked)

    @rule(writer=_WRITER, anew=st.booleans())
    def move_to_the_newest(self, writer: int, anew: bool) -> None:
        if anew:
            self.world.reopen(writer)
        assert self.world.handles[writer].refresh().version == self.world.newest


def many_rows() -> Seeds:
    """Enough rows for an index with lists, each with an id of its own."""
    return tuple((100 + i, *((i * step) % 16 - 6 for step in (1, 3, 5, 11))) for i in range(1100))
