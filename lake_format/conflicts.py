"""Decides whether an operation may follow others that were committed since it was planned.

Pure logic over :class:`OperationRecord` values, which every version object stores, so that a later committer
judges a commit without reading its data. The judgement itself is data: ``conflict_matrix.toml`` beside this
file. Nothing here reads storage, applies a decision, or knows how an operation is carried out
(spec/identity.md, CON clauses).
"""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from importlib.resources import files

from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.operation_record import OperationRecord

__all__ = ["CONDITIONS", "Action", "Decision", "Matrix", "OperationRecord"]
__all__ += ["decide", "decide_all", "load_matrix", "parse_matrix"]


class Action(StrEnum):
    """What becomes of a planned operation; ``strength`` orders them."""

    COMMUTE = "commute"
    REMAP = "remap"
    YIELD = "yield"
    REPLAN = "replan"
    CONFLICT = "conflict"

    @property
    def strength(self) -> int:
        """Rank from 0 (commute) to 4 (conflict); of several actions the strongest counts."""
        return list(Action).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a planned operation must do to follow others.

    Attributes
    ----------
    action
        The strongest action any condition asked for.
    reasons
        Names of the conditions that asked for it; empty when everything commutes.
    mine, theirs
        Operation kinds: the one being committed and the committed one that decided ("" when nothing stood in
        the way).
    text
        One sentence for a person.
    """

    action: Action
    reasons: tuple[str, ...] = ()
    mine: str = ""
    theirs: str = ""
    text: str = ""


Rules = tuple[tuple[str, Action], ...]
Cells = Mapping[tuple[str, str], Rules]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """The conflict matrix as loaded: meanings by name, and the rules of every cell by (mine, theirs)."""

    kinds: Mapping[str, str]
    conditions: Mapping[str, str]
    snapshot: Cells
    serializable: Cells = field(default_factory=dict)

    def rules(self, mine: str, theirs: str, serializable: bool) -> Rules:
        """Return the rules of one cell under an isolation level."""
        extra = self.serializable.get((mine, theirs), ()) if serializable else ()
        return self.snapshot[mine, theirs] + extra


def decide(
    mine: OperationRecord,
    theirs: OperationRecord,
    *,
    serializable: bool = False,
    matrix: Matrix | None = None,
) -> Decision:
    """Say what ``mine`` must do to be committed after ``theirs``, which its base version does not hold.

    Parameters
    ----------
    mine, theirs
        The operation being committed and one committed since its base. Where ``theirs`` keeps its key hashes
        in an object (``key_hashes_at``), the caller loads them first; unloaded ones count as overlapping.
    serializable
        Also refuse to have missed rows that a predicate of ``mine`` would have seen; the default is snapshot
        isolation.
    matrix
        Another matrix than the shipped one, for tests.

    Raises
    ------
    InvalidInputError
        ``mine`` is of a kind this release does not know. (An unknown kind of ``theirs`` is a conflict.)
    """
    table = matrix or load_matrix()
    if mine.kind not in table.kinds:
        raise InvalidInputError(
            f"unknown operation kind {mine.kind!r}", fix=f"one of {', '.join(table.kinds)}"
        )
    if theirs.kind not in table.kinds:
        text = f"a {theirs.kind!r} operation was committed meanwhile, which this release does not know"
        return Decision(
            action=Action.CONFLICT, reasons=("unknown_kind",), mine=mine.kind, theirs=theirs.kind, text=text
        )
    rules = table.rules(mine.kind, theirs.kind, serializable)
    met = [(name, action) for name, action in rules if CONDITIONS[name](mine, theirs)]
    if not met:
        return Decision(action=Action.COMMUTE, mine=mine.kind)
    strongest = max((action for _, action in met), key=lambda action: action.strength)
    reasons = tuple(name for name, action in met if action is strongest)
    because = "; ".join(table.conditions[name] for name in reasons)
    text = f"{mine.kind} meets {theirs.kind} committed since its base version: {because}"
    return Decision(action=strongest, reasons=reasons, mine=mine.kind, theirs=theirs.kind, text=text)


def decide_all(
    mine: Sequence[OperationRecord],
    theirs: Iterable[OperationRecord],
    *,
    serializable: bool = False,
    matrix: Matrix | None = None,
) -> Decision:
    """Return the strongest decision over every pair: several operations in a commit, several commits."""
    best = Decision(action=Action.COMMUTE)
    for other in theirs:
        for own in mine:
            found = decide(own, other, serializable=serializable, matrix=matrix)
            if found.action.strength > best.action.strength:
                best = found
    return best


def _same_name(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return not mine.claims.isdisjoint(theirs.claims)


def _same_column(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return not mine.fields_written.isdisjoint(theirs.fields_written)


def _read_column(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return not mine.fields_read.isdisjoint(theirs.fields_written)


def _indexed_column(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return not mine.fields_written.isdisjoint(theirs.fields_read)


def _same_rows(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return mine.rows_updated.overlaps(theirs.rows_updated) or mine.rows_deleted.overlaps(theirs.rows_updated)


def _values_read(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return _read_column(mine, theirs) and _same_rows(mine, theirs)


def _values_written(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return _same_column(mine, theirs) and _same_rows(mine, theirs)


def _rows_gone(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return mine.rows_updated.overlaps(theirs.rows_deleted)


def _rows_added(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return theirs.rows_added > 0


def _same_key(mine: OperationRecord, theirs: OperationRecord) -> bool:
    """None stands for keys that are not known: they overlap with whatever might bring one."""
    if mine.key_hashes is None:
        brings_keys = theirs.key_hashes is None or len(theirs.key_hashes) > 0
        return brings_keys or theirs.rows_added > 0 or _read_column(mine, theirs)
    if theirs.key_hashes is None:
        return len(mine.key_hashes) > 0
    few, many = sorted((mine.key_hashes, theirs.key_hashes), key=len)
    return any(_holds(many, key) for key in few)


def _holds(ascending: Sequence[int], key: int) -> bool:
    index = bisect_left(ascending, key)
    return index < len(ascending) and ascending[index] == key


def _required(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return _unchecked(mine, theirs) or _unchecked(theirs, mine)


def _unchecked(rule: OperationRecord, writer: OperationRecord) -> bool:
    """Whether ``writer`` wrote values that the rule ``rule`` brought in was not checked against."""
    if not rule.fields_required:
        return False
    return writer.rows_added > 0 or not rule.fields_required.isdisjoint(writer.fields_written)


def _fragment_gone(mine: OperationRecord, theirs: OperationRecord) -> bool:
    base = mine.fragments_masked | mine.fragments_rewritten | mine.fragments_removed
    return not base.isdisjoint(theirs.fragments_removed)


def _fragment_masked(mine: OperationRecord, theirs: OperationRecord) -> bool:
    return not mine.fragments_removed.isdisjoint(theirs.fragments_masked)


def _fragment_rewritten(mine: OperationRecord, theirs: OperationRecord) -> bool:
    rewritten = mine.fragments_rewritten | mine.fragments_removed
    return not rewritten.isdisjoint(theirs.fragments_rewritten)


CONDITIONS: Mapping[str, Callable[[OperationRecord, OperationRecord], bool]] = {
    "always": lambda mine, theirs: True,
    "same_name": _same_name,
    "same_column": _same_column,
    "read_column": _read_column,
    "indexed_column": _indexed_column,
    "values_read": _values_read,
    "values_written": _values_written,
    "same_rows": _same_rows,
    "rows_gone": _rows_gone,
    "rows_added": _rows_added,
    "same_key": _same_key,
    "required": _required,
    "fragment_gone": _fragment_gone,
    "fragment_masked": _fragment_masked,
    "fragment_rewritten": _fragment_rewritten,
}
"""Each condition of the matrix, asked of (mine, theirs)."""


@cache
def load_matrix() -> Matrix:
    """Load the shipped matrix, checked for holes, doubles and unknown names."""
    return parse_matrix(files("lake_format").joinpath("conflict_matrix.toml").read_text("utf-8"))


def parse_matrix(text: str) -> Matrix:
    """Read a matrix from TOML; CorruptionError if a cell is missing, given twice, or names the unknown."""
    data = tomllib.loads(text)
    kinds, conditions = data["kinds"], data["conditions"]
    if set(conditions) != set(CONDITIONS) or set(data["actions"]) != set(Action):
        raise CorruptionError("the conflict matrix and this release know different conditions or actions")
    snapshot = _cells(data["snapshot"], kinds)
    missing = [(mine, theirs) for mine in kinds for theirs in kinds if (mine, theirs) not in snapshot]
    if missing:
        raise CorruptionError(f"the conflict matrix has no cell for {missing[0]}")
    return Matrix(
        kinds=kinds,
        conditions=conditions,
        snapshot=snapshot,
        serializable=_cells(data["serializable"], kinds),
    )


def _cells(rows: Mapping[str, Mapping[str, Sequence[str]]], kinds: Mapping[str, str]) -> Cells:
    cells: dict[tuple[str, str], Rules] = {}
    for mine_kinds, columns in rows.items():
        for theirs_kinds, rules in columns.items():
            parsed = tuple(_rule(rule) for rule in rules)
            for cell in ((mine, theirs) for mine in mine_kinds.split() for theirs in theirs_kinds.split()):
                if cell in cells or not kinds.keys() >= set(cell):
                    raise CorruptionError(f"the conflict matrix gives the cell {cell} twice or names no kind")
                cells[cell] = parsed
    return cells


def _rule(text: str) -> tuple[str, Action]:
    name, _, action = text.partition(": ")
    if name not in CONDITIONS or action not in set(Action):
        raise CorruptionError(f"the conflict matrix has the rule {text!r}, which is unknown")
    return name, Action(action)
