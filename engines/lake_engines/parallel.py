"""Run independent reads side by side where each would wait for the network; one after another where not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run_all"]

_AT_ONCE = 64
_Result = TypeVar("_Result")


def run_all(calls: Sequence[Callable[[], _Result]], *, together: bool) -> list[_Result]:
    """The result of every call, in order; the first error raised, if any.

    Parameters
    ----------
    together
        Use a thread for each call (up to a limit). Threads are made for the occasion: a call may itself run
        others, which a shared pool would let wait for each other.
    """
    if not together or len(calls) < 2:
        return [call() for call in calls]
    with ThreadPoolExecutor(min(_AT_ONCE, len(calls))) as threads:
        return list(threads.map(lambda call: call(), calls))
