"""A branch in a random history: made, worked on while main goes on, brought back or not, and deleted.

What comes of a merge is what the branch's operations make of main's newest version, one after the other, or a
conflict that the matrix allows (spec/identity.md, CON-11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lake_format.conflicts import Action, load_matrix
from lake_format.errors import ConflictError

from .operations import Operation
from .state import Effect, ImpossibleError, State, meets
from .world import World

LEFT_OUT = {
    "compact",
    "cluster",
    "optimize_index",
    "expire",
    "set_ref",
    "set_properties",
    "create",
    "collect",
}
"""Kinds that a merge passes over (BRA-14)."""
PASSED_OVER = LEFT_OUT - {"set_properties"}
"""Kinds on main that a fast-forward passes over (BRA-13)."""
NAME = "work"


class Branch:
    """A branch made from main's newest version, as a world of its own."""

    def __init__(self, main: World) -> None:
        self.main, self.fork = main, main.latest
        made = main.open().create_branch(NAME)
        self._set_reference()
        first = replace(
            self.fork, next_row_id=made.snapshot.version.next_row_id, tags={}, sequences={}, horizon=1
        )
        self.world = main.branched(NAME, first)

    def work(self, operations: Sequence[Operation]) -> None:
        """Do one after the other."""
        for operation in operations:
            self.world.execute(0, operation)
            for _ in range(self.main.open().version - self.main.newest):  # expiry is told to main (BRA-8)
                self._set_reference()
        assert self.world.open().branch == NAME

    def merge(self) -> None:
        """Merge into main, which may have gone on."""
        theirs = [effect for effect in self.main.since(self.fork) if effect.kind not in {"set_ref"}]
        mine = [effect for effect in self.world.since(self.world.versions[1]) if effect.kind not in LEFT_OUT]
        main = self.main.open()
        try:
            main.merge_branch(NAME)
        except ConflictError as error:
            if not self._may_conflict(mine, theirs):
                raise AssertionError(f"merging {mine} over {theirs}") from error
            assert self.main.open().version == self.main.newest
            return
        if not mine:
            assert main.version == self.main.newest
            return
        assert not self._other_key, "rows of one were never held to the key of the other"
        self._land_on_main(self._merged(), Effect(kind="restore"))

    def fast_forward(self) -> None:
        """Bring main to where the branch is; refused if main went on."""
        theirs = [one for one in self.main.since(self.fork) if one.kind not in PASSED_OVER]
        main = self.main.open()
        try:
            main.fast_forward(NAME)
        except ConflictError:
            assert theirs or self._other_key, "main had not gone on"
            return
        if self.world.newest == 1:
            assert main.version == self.main.newest
            return
        assert not theirs, f"{theirs} of main were passed over"
        own, latest = self.main.latest, self.world.latest
        state = replace(own, columns=latest.columns, rows=latest.rows, indexes=latest.indexes)
        self._land_on_main(state, Effect(kind="restore"))

    @property
    def _other_key(self) -> bool:
        """Whether one of the two lines, or both, has another key than they had."""
        return len({self.fork.key, self.main.latest.key, self.world.latest.key}) > 1

    @property
    def _parted_twice(self) -> bool:
        """Whether both lines were partitioned anew since the fork."""
        lines = (self.world.since(self.world.versions[1]), self.main.since(self.fork))
        return all(any("property:partitioning" in one.claims for one in line) for line in lines)

    def delete(self) -> None:
        """End it; main says so in one commit."""
        self.main.open().delete_branch(NAME)
        self._set_reference()

    def _set_reference(self) -> None:
        self.main.land(self.main.latest, Effect(kind="set_ref", claims=frozenset({f"branch:{NAME}"})))

    def _land_on_main(self, state: State, effect: Effect) -> None:
        self.main.land(state, effect)
        self.main.check_landed()

    def _merged(self) -> State:
        """Main's newest version with what was done on the branch; rows have the ids they have there.

        Raises
        ------
        ImpossibleError
            No version may look like that.
        """
        own = self.main.latest
        state = own
        for number in range(2, self.world.newest + 1):
            effect = self.world.effects[number]
            if effect.kind in LEFT_OUT:
                continue
            state = effect.apply(replace(state, next_row_id=self.world.versions[number - 1].next_row_id))
            state = self._as_numbered(state, number)
        return replace(
            state, next_row_id=own.next_row_id, sequences=own.sequences, tags=own.tags, horizon=own.horizon
        )

    def _as_numbered(self, state: State, number: int) -> State:
        """New rows of a version of the branch under the ids they got there, whatever order they were written in."""
        before, now = self.world.versions[number - 1], self.world.versions[number]
        defaults = {one.number: one.default for one in state.columns if one.default is not None}
        new = {i: {**defaults, **row} for i, row in now.rows.items() if i not in before.rows}
        return replace(state, rows={**state.rows, **new})

    def _may_conflict(self, mine: Sequence[Effect], theirs: Sequence[Effect]) -> bool:
        """Whether the matrix, as far as the model can tell, lets some pair conflict, or what comes of it cannot be.

        A restore on the branch is refused always; so are another key, rows written for columns of the branch
        where main got others (IDN-16), and partitions that each line numbered for itself (BRA-17).
        """
        if self._other_key or any(one.kind == "restore" for one in mine):
            return True
        if self._parted_twice:
            return True
        if self.world.latest.horizon > 1 or self.main.latest.horizon > self.fork.number:
            return True  # what was done in expired versions cannot be told
        matrix = load_matrix()
        for one in mine:
            for other in theirs:
                if one.kind not in matrix.kinds or other.kind not in matrix.kinds:
                    continue
                for condition, action in matrix.rules(one.kind, other.kind, self.main.serializable):
                    refuses = action in (Action.CONFLICT, Action.REPLAN)
                    if refuses and _possible(condition, one, other):
                        return True
        schemas = [any(one.columns != state.columns for one in states) for states, state in self._lines()]
        return all(schemas) or self._cannot_be()

    def _cannot_be(self) -> bool:
        try:
            self._merged()
        except ImpossibleError:
            return True
        return False

    def _lines(self) -> list[tuple[list[State], State]]:
        """The versions of both lines since the fork, each with the one it was made from."""
        main = [self.main.versions[n] for n in range(self.fork.number + 1, self.main.newest + 1)]
        return [(list(self.world.versions.values()), self.world.versions[1]), (main, self.fork)]


def _possible(condition: str, mine: Effect, theirs: Effect) -> bool:
    """Whether a condition of the conflict matrix may hold."""
    match condition:
        case "rows_added":
            return bool(theirs.inserts)
        case "same_key":
            return bool(mine.keys)  # records of tables without a key need not tell others' keys
        case "rows_gone":
            return bool(mine.touched & theirs.deletes)
        case "same_rows":
            return bool(mine.touched & theirs.touched)
        case "indexed_column" | "fragment_gone" | "fragment_masked" | "fragment_rewritten":
            return True
    return meets(condition, mine, theirs, certainly=False)
