"""The commit protocol: plan, decide, claim the next number by create-if-absent, learn what became of it.

One ``ModelTable`` holds main, its branches and their truths. A commit takes two steps, ``prepare`` and ``claim``,
so that other writers can get in between, and a claim's response can be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from lake_format.conflicts import Action, Decision, Matrix, decide_all
from lake_format.operation_record import OperationRecord

from . import oracle
from .effects import Intent, RefusedError, Restore, Row
from .oracle import Truth
from .planning import Plan, make_fragment, plan
from .rebase import apply, remap, settle
from .state import LINE_STRIDE, Column, Snapshot, ViolationError

LEFT_OUT_OF_MERGES = {"compact", "cluster", "optimize_index", "expire", "set_ref", "set_properties"}
START_COLUMNS = {1: Column("k"), 2: Column("a"), 3: Column("b"), 4: Column("vec"), 5: Column("c")}


class ConflictError(RefusedError):
    """The matrix says conflict: a typed error, nothing committed."""


class YieldedError(RefusedError):
    """Upkeep gave way; nothing committed and nobody is told of an error."""


class LostResponseError(Exception):
    """The store did not answer; the claim may have landed."""


@dataclass(frozen=True)
class Faults:
    """Rules of the protocol that a mutation test switches off."""

    read_back: bool = True  # a taken name is read back to see whose it is
    keep_names: bool = True  # collection leaves tombstones
    check_horizon: bool = True  # a base before the horizon is refused
    idempotency: bool = True  # a sequence number that was committed is not committed again
    line_ids: bool = True  # a branch has row ids of its own
    keep_counters: bool = True  # a restore does not turn back the row-id counter


@dataclass
class Attempt:
    """One operation of one writer on its way to a commit."""

    line: int
    intent: Intent
    plan: Plan
    writer: str
    sequence: int
    commit_id: str
    base_truth: Truth
    prepared: Snapshot | None = None
    settled: Plan | None = None
    truth: Truth | None = None
    decision: Decision | None = None


@dataclass
class Line:
    """Main or a branch: its versions and their truths, by number; collected versions are absent."""

    versions: dict[int, Snapshot]
    truths: dict[int, Truth]
    plans: dict[int, Plan] = field(default_factory=dict)
    merged: dict[int, int] = field(default_factory=dict)  # own version number: the branch it merged
    parent: tuple[int, int] | None = None
    merged_up_to: int = 0

    @property
    def latest(self) -> Snapshot:
        return self.versions[max(self.versions)]


class ModelTable:
    def __init__(
        self,
        keyed: bool,
        *,
        serializable: bool = False,
        matrix: Matrix | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.serializable, self.matrix, self.faults = serializable, matrix, faults or Faults()
        start = Snapshot(
            line=0, number=1, fragments={}, columns=START_COLUMNS, keyed=keyed, commit_id="create",
            next_row_id=0, next_fragment_id=0, next_field_id=6,
        )  # fmt: skip
        truth = Truth({}, START_COLUMNS, keyed, 0, 6)
        self.lines = {0: Line({1: start}, {1: truth})}
        self.names = {(0, 1): "create"}  # every object name ever claimed, with the commit id in it
        self.pins: set[tuple[int, int]] = set()  # (line, version) that clones share
        self.next_line = 1
        self.landed: list[tuple[str, str, int]] = []  # commit id, writer, sequence
        self._unique = count(1)

    def copy(self) -> ModelTable:
        """The same table to go on with separately; versions are values and shared."""
        twin = ModelTable(False, serializable=self.serializable, matrix=self.matrix, faults=self.faults)
        twin.lines = {
            number: Line(dict(own.versions), dict(own.truths), dict(own.plans), dict(own.merged), own.parent,
                         own.merged_up_to)
            for number, own in self.lines.items()
        }  # fmt: skip
        twin.names, twin.landed = dict(self.names), list(self.landed)
        twin.pins, twin.next_line = set(self.pins), self.next_line
        twin._unique = count(1000 + len(self.names))
        return twin

    # -- one operation -------------------------------------------------------------------------------------

    def begin(self, line: int, intent: Intent, writer: str = "w", sequence: int = 0) -> Attempt:
        """Plan an operation against the latest version of a line."""
        own = self.lines[line]
        own_plan = plan(intent, own.latest, own.versions)
        commit_id = f"commit-{next(self._unique)}"
        return Attempt(line, intent, own_plan, writer, sequence, commit_id, own.truths[own.latest.number])

    def prepare(self, attempt: Attempt) -> bool:
        """Decide against all commits since the base and form the next version. False: done already."""
        line = self.lines[attempt.line]
        latest = line.latest
        if (
            self.faults.idempotency
            and attempt.sequence
            and attempt.sequence <= latest.sequences.get(attempt.writer, 0)
        ):
            return False
        base = attempt.plan.base
        if self.faults.check_horizon and base.number < latest.horizon:
            raise RefusedError("the base version lies before the collection horizon")
        since = [n for n in sorted(line.versions) if n > base.number]
        theirs = [record for n in since for record in line.versions[n].records]
        decision = attempt.decision = self._decide([attempt.plan.record], theirs)
        own = attempt.plan
        if decision.action is Action.CONFLICT:
            raise ConflictError(decision.text)
        if decision.action is Action.YIELD:
            raise YieldedError(decision.text)
        if decision.action is Action.REPLAN:
            own = attempt.plan = plan(attempt.intent, latest, line.versions)
            attempt.base_truth = line.truths[latest.number]
        elif decision.action is Action.REMAP:
            own = remap(own, latest, theirs)
        self._form(attempt, own, line)
        return True

    def _decide(self, mine: Sequence[OperationRecord], theirs: Sequence[OperationRecord]) -> Decision:
        # Records are stored as JSON and read back by whoever comes later.
        stored = [OperationRecord.from_json(record.to_json()) for record in theirs]
        return decide_all(mine, stored, serializable=self.serializable, matrix=self.matrix)

    def _form(self, attempt: Attempt, own: Plan, line: Line) -> None:
        latest, intent = line.latest, attempt.intent
        old = line.versions.get(intent.number) if isinstance(intent, Restore) else None
        new = apply(own, latest, old)
        if old and not self.faults.keep_counters:
            new = replace(new, next_row_id=old.next_row_id)
        truth = oracle.execute(
            intent, attempt.base_truth, line.truths[latest.number], serializable=self.serializable,
            restored=line.truths[old.number] if old else None,
        )  # fmt: skip
        attempt.prepared = replace(
            new, commit_id=attempt.commit_id, committed_at=latest.committed_at + 1,
            sequences={**latest.sequences, attempt.writer: attempt.sequence},
        )  # fmt: skip
        attempt.settled, attempt.truth = settle(own, latest), truth

    def claim(self, attempt: Attempt, *, lose_response: bool = False) -> bool:
        """Create the version object. False: the name is taken by somebody else, prepare again."""
        new = attempt.prepared
        assert new
        assert attempt.truth
        assert attempt.settled
        name = (attempt.line, new.number)
        if name in self.names:
            return self.faults.read_back and self.names[name] == attempt.commit_id
        line = self.lines[attempt.line]
        if new.number <= max(line.versions):
            raise ViolationError("a version number was claimed a second time")
        self.names[name] = attempt.commit_id
        line.versions[new.number], line.truths[new.number] = new, attempt.truth
        line.plans[new.number] = attempt.settled
        self.landed.append((attempt.commit_id, attempt.writer, attempt.sequence))
        if lose_response:
            raise LostResponseError
        return True

    def commit(self, attempt: Attempt) -> Snapshot:
        """Prepare and claim until it landed; RefusedError if it cannot."""
        while self.prepare(attempt):
            if self.claim(attempt):
                break
        return self.lines[attempt.line].latest

    def run(self, intent: Intent, line: int = 0) -> Snapshot:
        """Plan and commit with nobody in between."""
        return self.commit(self.begin(line, intent))

    # -- lines ---------------------------------------------------------------------------------------------

    def fork(self, line: int) -> int:
        """A new branch from a line's latest version; its number is claimed and never used again."""
        source = self.lines[line]
        latest = source.latest
        branch = self.next_line
        self.next_line += 1
        own = branch * LINE_STRIDE if self.faults.line_ids else latest.next_row_id
        first = replace(
            latest, line=branch, number=1, records=(), horizon=0, refs={}, next_row_id=own, sequences={},
            next_fragment_id=branch * LINE_STRIDE, commit_id=f"fork-{branch}",
        )  # fmt: skip
        truth = replace(oracle.fork(source.truths[latest.number], branch), next_row_id=own)
        self.lines[branch] = Line({1: first}, {1: truth}, parent=(line, latest.number), merged_up_to=1)
        self.names[branch, 1] = first.commit_id
        return branch

    def clone(self, line: int) -> ModelTable:
        """Another table that shares a line's latest version; its main is the next line of this one."""
        number = self.fork(line)
        self.pins.add((line, self.lines[line].latest.number))
        twin = self.copy()
        own = twin.lines[number]
        twin.lines, twin.names, twin.landed = {number: own}, {(number, 1): "clone"}, []
        own.parent = None
        del self.lines[number]
        return twin

    def merge(self, branch: int) -> Snapshot:
        """Replay a branch's operations on the line it came from; ConflictError if one does not commute."""
        source = self.lines[branch]
        assert source.parent
        line, fork_number = source.parent
        target = self.lines[line]
        numbers = [n for n in sorted(source.versions) if n > source.merged_up_to]
        steps = [n for n in numbers if source.versions[n].records[0].kind not in LEFT_OUT_OF_MERGES]
        if not steps or any(n not in source.plans or n - 1 not in source.versions for n in steps):
            raise RefusedError("there is nothing that can be merged")
        if fork_number < target.latest.horizon:
            raise RefusedError("the branch point lies before the collection horizon")
        since = [n for n in target.versions if n > fork_number and target.merged.get(n) != branch]
        theirs = [record for n in sorted(since) for record in target.versions[n].records]
        mine = [source.versions[n].records[0] for n in steps]
        self._refuse_merge(mine, theirs)
        state = target.latest
        landed = []  # told in the form that was committed here: the fragments of the branch are others
        for n in steps:
            own = remap(replace(source.plans[n], base=source.versions[n - 1]), state, theirs)
            state = apply(own, state, settled=True)
            landed.append(own.record)
        return self._commit_merge(branch, steps, replace(state, records=tuple(landed)))

    def _refuse_merge(self, mine: Sequence[OperationRecord], theirs: Sequence[OperationRecord]) -> None:
        decision = self._decide(mine, theirs)
        adds = {record.kind for record in mine} & {record.kind for record in theirs} & {"add_column"}
        restores = {record.kind for record in mine} & {"restore"}
        if decision.action not in (Action.COMMUTE, Action.REMAP) or adds or restores:
            raise ConflictError(decision.text or "the branch cannot be replayed")

    def _commit_merge(self, branch: int, steps: list[int], state: Snapshot) -> Snapshot:
        source = self.lines[branch]
        target = self.lines[state.line]
        latest = target.latest
        new = replace(
            state, number=latest.number + 1, commit_id=f"merge-{next(self._unique)}",
            committed_at=latest.committed_at + 1, next_row_id=latest.next_row_id,
        )  # fmt: skip
        truth = oracle.merge([source.truths[n] for n in steps], target.truths[latest.number])
        self.names[new.line, new.number] = new.commit_id
        target.versions[new.number], target.truths[new.number] = new, truth
        target.merged[new.number] = branch
        source.merged_up_to = max(steps)
        return new

    def collect(self, line: int) -> None:
        """Remove versions before the horizon, except tagged ones; their names stay as tombstones."""
        own = self.lines[line]
        keep = set(own.latest.refs.values()) | {number for pinned, number in self.pins if pinned == line}
        keep |= {other.parent[1] for other in self.lines.values() if other.parent and other.parent[0] == line}
        for number in [n for n in own.versions if n < own.latest.horizon and n not in keep]:
            del own.versions[number], own.truths[number]
            if not self.faults.keep_names:
                del self.names[line, number]

    def load(self, fragments: Sequence[Sequence[Row]]) -> None:
        """Fill a new table in its first version: fragments of rows."""
        line = self.lines[0]
        start, rows, entries, truth_rows = line.latest, 0, {}, {}
        for number, part in enumerate(fragments):
            ids = tuple(range(rows, rows + len(part)))
            entries[number] = make_fragment(number, ids, part, start.columns)
            truth_rows |= {
                i: {f: row.get(f) for f in start.columns} for i, row in zip(ids, part, strict=True)
            }
            rows += len(part)
        loaded = replace(start, fragments=entries, next_row_id=rows, next_fragment_id=len(entries))
        line.versions[1] = loaded
        line.truths[1] = replace(line.truths[1], rows=truth_rows, next_row_id=rows)
