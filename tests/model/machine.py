"""The hypothesis state machine: three writers, any operation, any interleaving, branches, crashes and collection."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lake_format.conflicts import Matrix

from .checks import check_table
from .effects import (
    AddColumn,
    AlterColumn,
    Append,
    Backfill,
    Cells,
    Cluster,
    Compact,
    CreateIndex,
    DeclareKey,
    Delete,
    DropColumn,
    DropIndex,
    Expire,
    Intent,
    Merge,
    OptimizeIndex,
    Overwrite,
    RefusedError,
    RenameColumn,
    Restore,
    Set,
    SetProperty,
    SetRef,
    Update,
    Upsert,
    Where,
)  # fmt: skip
from .state import KEY, VECTOR, Snapshot
from .table import Attempt, Faults, LostResponseError, ModelTable

WRITERS = st.sampled_from(["w1", "w2", "w3"])
HOWS = st.sampled_from(["patch", "group", "move"])
OFTEN = ("append", "delete", "update", "upsert", "compact", "optimize", "index", "backfill")
SELDOM = (
    "merge", "overwrite", "cluster", "add_column", "drop_column", "rename", "alter", "drop_index", "expire",
    "restore", "property", "ref", "key",
)  # fmt: skip
KINDS = st.sampled_from(OFTEN * 4 + SELDOM)


@st.composite
def cells(draw: st.DrawFn, snapshot: Snapshot, partial: bool) -> tuple[Cells, ...]:
    """Some rows with keys from so small a range that writers meet."""
    keys = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True))
    others = [f for f in snapshot.columns if f != KEY]
    chosen = draw(st.lists(st.sampled_from(others), unique=True)) if partial and others else others
    values = st.integers(0, 2) if draw(st.booleans()) else st.none() | st.integers(0, 2)
    return tuple(((KEY, key), *((f, draw(values)) for f in chosen)) for key in keys)


@st.composite
def intents(draw: st.DrawFn, snapshot: Snapshot, numbers: list[int]) -> Intent:
    """Any operation, mostly one that is possible on this version."""
    kind, how = draw(KINDS), draw(HOWS)
    field = st.sampled_from(sorted(snapshot.columns) or [KEY])
    value = st.none() | st.integers(0, 2)
    name = st.sampled_from(["i", "j"])
    where = st.builds(Where, field | st.none(), value)
    expression = st.builds(Set, field, value, st.none() | field)
    some = st.lists(
        st.sampled_from(sorted(snapshot.fragments) or [0]), min_size=1, max_size=4, unique=True
    ).map(tuple)
    choices: dict[str, st.SearchStrategy[Intent]] = {
        "append": st.builds(Append, cells(snapshot, False), st.booleans()),
        "delete": st.builds(Delete, where, st.booleans()),
        "update": st.builds(
            Update, where, st.lists(expression, min_size=1, max_size=2).map(tuple), st.just(how)
        ),
        "upsert": st.builds(Upsert, cells(snapshot, True), st.just(how), st.booleans()),
        "merge": st.builds(Merge, cells(snapshot, True), st.booleans(), st.just(how)),
        "overwrite": st.builds(Overwrite, where, cells(snapshot, False), st.booleans()),
        "add_column": st.builds(
            AddColumn, st.sampled_from(["d", "e"]), st.none() | expression, st.booleans(), st.booleans()
        ),
        "drop_column": st.builds(DropColumn, field),
        "rename": st.builds(RenameColumn, field, st.sampled_from(["a", "d", "g"])),
        "alter": st.builds(AlterColumn, field, st.booleans()),
        "backfill": st.builds(Backfill, expression, st.just(how)),
        "index": st.builds(CreateIndex, name, field | st.just(VECTOR)),
        "drop_index": st.builds(DropIndex, name),
        "optimize": st.builds(OptimizeIndex, name),
        "compact": st.builds(Compact, some),
        "cluster": st.builds(Cluster, some, field),
        "expire": st.builds(Expire, st.sampled_from(numbers)),
        "restore": st.builds(Restore, st.sampled_from(numbers)),
        "property": st.builds(SetProperty, st.sampled_from("xy"), st.integers(0, 3)),
        "key": st.just(DeclareKey()),
        "ref": st.builds(SetRef, st.sampled_from("tu"), st.sampled_from(numbers)),
    }
    return draw(choices[kind])


class TableMachine(RuleBasedStateMachine):
    """Writers plan, others commit in between, and every version must be what a serial run makes of the rows."""

    matrix: Matrix | None = None
    faults = Faults()

    def __init__(self) -> None:
        super().__init__()
        self.table = ModelTable(True)
        self.open: dict[str, Attempt] = {}
        self.sequence = 0

    @initialize(keyed=st.booleans(), serializable=st.booleans(), data=st.data())
    def start(self, keyed: bool, serializable: bool, data: st.DataObject) -> None:
        self.table = ModelTable(keyed, serializable=serializable, matrix=self.matrix, faults=self.faults)
        latest = self.table.lines[0].latest
        for intent in (Append(data.draw(cells(latest, False))), CreateIndex("i", VECTOR)):
            with suppress(RefusedError):
                self.table.run(intent)

    @rule(writer=WRITERS, data=st.data())
    def begin(self, writer: str, data: st.DataObject) -> None:
        """A writer plans against what is the latest version now; an open plan of its is given up."""
        line = data.draw(st.sampled_from(sorted(self.table.lines)))
        self.open.pop(writer, None)
        if attempt := self._begin(line, writer, data):
            self.open[writer] = attempt

    def _begin(self, line: int, writer: str, data: st.DataObject) -> Attempt | None:
        own = self.table.lines[line]
        intent = data.draw(intents(own.latest, sorted(own.versions)))
        self.sequence += 1
        try:
            return self.table.begin(line, intent, writer, self.sequence)
        except RefusedError:
            return None

    @rule(data=st.data(), racers=st.integers(2, 3))
    def race(self, data: st.DataObject, racers: int) -> None:
        """Some writers plan on the same version and commit one after the other."""
        line = data.draw(st.sampled_from(sorted(self.table.lines)))
        attempts = [self._begin(line, f"r{number}", data) for number in range(racers)]
        for attempt in attempts:
            if attempt:
                with suppress(RefusedError):
                    self.table.commit(attempt)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        attempt = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        with suppress(RefusedError):
            self.table.commit(attempt)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def prepare_only(self, data: st.DataObject) -> None:
        """A writer stalls between forming a version and claiming its number."""
        writer = data.draw(st.sampled_from(sorted(self.open)))
        try:
            going_on = self.table.prepare(self.open[writer])
        except RefusedError:
            going_on = False
        if not going_on:
            del self.open[writer]

    @precondition(lambda self: any(a.prepared for a in self.open.values()))
    @rule(data=st.data(), lose=st.booleans())
    def claim_only(self, data: st.DataObject, lose: bool) -> None:
        """A stalled writer claims; where the response is lost it does not know and claims again later."""
        prepared = sorted(w for w, a in self.open.items() if a.prepared)
        writer = data.draw(st.sampled_from(prepared))
        with suppress(LostResponseError):
            if self.table.claim(self.open[writer], lose_response=lose):
                del self.open[writer]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def job_starts_again(self, data: st.DataObject) -> None:
        """A retried job repeats an operation under the same writer id and sequence number."""
        old = self.open[data.draw(st.sampled_from(sorted(self.open)))]
        with suppress(RefusedError):
            again = self.table.begin(old.line, old.intent, old.writer, old.sequence)
            self.table.commit(again)

    @precondition(lambda self: len(self.table.lines) < 4)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        self.table.fork(data.draw(st.sampled_from(sorted(self.table.lines))))

    @precondition(lambda self: self._ahead())
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        with suppress(RefusedError):
            self.table.merge(data.draw(st.sampled_from(self._ahead())))

    def _ahead(self) -> list[int]:
        lines = self.table.lines.items()
        return [number for number, own in lines if own.parent and own.latest.number > own.merged_up_to]

    @precondition(lambda self: any(own.latest.horizon for own in self.table.lines.values()))
    @rule()
    def collect(self) -> None:
        for line in self.table.lines:
            self.table.collect(line)

    @invariant()
    def latest_versions_are_right(self) -> None:
        check_table(self.table, only_latest=True)

    def teardown(self) -> None:
        """Old versions have not changed through anything that came after them."""
        check_table(self.table)
