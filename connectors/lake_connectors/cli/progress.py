"""A progress bar on standard error, shown only when the work takes longer than a second and someone looks."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["Progress"]

PATIENCE_SECONDS = 1.0


class Progress:
    """Takes ``(stage, done, total)`` reports, as the library makes them, and draws one bar a stage.

    Parameters
    ----------
    total
        What to show as the total where a report does not know it (0).
    unit
        What is counted.
    """

    def __init__(self, total: int = 0, unit: str = "rows") -> None:
        self._started = time.monotonic()
        self._total = total
        self._unit = unit
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._seen: dict[str, int] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note how far a stage is."""
        self._seen[stage] = done
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE_SECONDS or not sys.stderr.isatty():
                return
            self._bar = self._start()
        known = total or self._total
        if stage not in self._tasks:
            self._finish_others(stage)
            self._tasks[stage] = self._bar.add_task(stage, total=known or None)
        self._bar.update(self._tasks[stage], completed=done, total=known or None)

    def _start(self) -> Bar:
        from rich import progress  # noqa: PLC0415 - only work that takes long needs rich
        from rich.console import Console  # noqa: PLC0415

        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:,.0f} " + self._unit),
            progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        bar.start()
        return bar

    def _finish_others(self, stage: str) -> None:
        for name, task in self._tasks.items():
            if name != stage and self._bar is not None:
                self._bar.update(task, total=self._seen[name] or 1, completed=self._seen[name] or 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
