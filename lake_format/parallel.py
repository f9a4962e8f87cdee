"""Run independent work side by side where that is quicker than one after another; a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

__all__ = ["ahead", "as_finished", "in_order", "run_all"]

_AT_ONCE = 64
_END: Any = object()
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


def ahead(items: Iterator[_Item]) -> Generator[_Item, None, None]:
    """The same items, each made by a thread while the one before is in use; one is ready at most.

    When it is closed the item in the making is waited for.
    """
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = thread.submit(next, items, _END)
            yield item


def as_finished(
    call: Callable[[_Item], _Result],
    items: Sequence[_Item],
    workers: int,
    unused: Callable[[_Result], None],
) -> Generator[list[_Result], None, None]:
    """The results of calls that run a few at a time, as they come: those that are there together in one list.

    Once one has failed, or the iterator is closed, no further call begins, and those that run are waited for.

    Parameters
    ----------
    unused
        Is given each result that is then not given out.
    """
    if workers < 2 or len(items) < 2:
        yield from ([call(item)] for item in items)
        return
    waiting = deque(items)
    running: list[Future[_Result]] = []
    with ThreadPoolExecutor(workers) as threads:

        def begin() -> None:
            while waiting and len(running) < 2 * workers:
                running.append(threads.submit(call, waiting.popleft()))

        try:
            begin()
            while running:
                wait(running, return_when=FIRST_COMPLETED)
                finished = [future for future in running if future.done()]
                results = [future.result() for future in finished]
                running = [future for future in running if future not in finished]
                begin()  # so that work goes on while these are used
                yield results
        finally:
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled() and future.exception() is None:
                    unused(future.result())
