"""Run independent reads side by side where each would wait for the network; one after another where not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order", "run_all"]

_AT_ONCE = 64
_Item = TypeVar("_Item")
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


def in_order(
    call: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[_Result, None, None]:
    """The result of each call, in order, a few running at a time; items are taken only as they are needed.

    Once one has failed, or the iterator is closed, no further call begins, and those that run are waited for.
    """
    if workers < 2:
        yield from map(call, items)
        return
    with ThreadPoolExecutor(workers) as threads:
        running: deque[Future[_Result]] = deque()
        try:
            for item in items:
                running.append(threads.submit(call, item))
                if len(running) > workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
