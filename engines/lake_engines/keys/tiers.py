"""When runs of the key index are worth putting together. Pure arithmetic on what a version says of them."""

from __future__ import annotations

from collections import defaultdict

from lake_format.key_index import KeyIndex, KeyRun

__all__ = ["overdue", "settled"]

_SMALLEST = 256
_FANOUT = 8
_MOST_ENTRIES = 1 << 20
"""A writer merges no more than so many entries (12 MiB) besides its own work; upkeep does the rest."""
_MOST_STALE = 1_024
_FEW_RUNS = 4


def overdue(index: KeyIndex) -> tuple[list[KeyRun], bool]:
    """Runs that the next writer should merge, and whether rows that the index does not answer for should go in.

    Runs of about the same size are merged eight at a time, with all smaller ones: each entry is written again once
    for each eightfold growth of the table.
    """
    tiers: dict[int, list[KeyRun]] = defaultdict(list)
    for run in index.runs:
        tiers[_tier(run.run.entries)].append(run)
    for tier in sorted(tiers, reverse=True):
        if len(tiers[tier]) < _FANOUT:
            continue
        runs = [run for other in tiers if other <= tier for run in tiers[other]]
        if sum(run.run.entries for run in runs) <= _MOST_ENTRIES:
            return runs, False
    if len(index.stale) >= _MOST_STALE:
        return [], True
    return [], False


def settled(index: KeyIndex) -> bool:
    """Whether upkeep would find nothing worth doing, rows that the index does not answer for aside."""
    return len(index.runs) <= _FEW_RUNS and not index.stale


def _tier(entries: int) -> int:
    tier, size = 0, _SMALLEST
    while entries > size:
        tier, size = tier + 1, size * _FANOUT
    return tier
