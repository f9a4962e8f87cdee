"""How benchmarks measure: contestants alternated in one run, medians, ratios; peak memory in a child process.

Nothing here knows what is measured. Run a benchmark as ``python -m bench.<name>`` from the repository's root.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any


@dataclass
class Comparison:
    """Times of several contestants at one task, in seconds."""

    task: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """How many times faster ``base`` is than ``name``."""
        return self.median(name) / self.median(base)


def alternate(
    task: str, contestants: Mapping[str, Callable[[], Any]], *, rounds: int, warmups: int = 1
) -> Comparison:
    """Run each contestant once a round, in turn, so that drift of the machine hits all alike."""
    result = Comparison(task, {name: [] for name in contestants})
    for _ in range(warmups):
        for run in contestants.values():
            run()
    for _ in range(rounds):
        for name, run in contestants.items():
            gc.disable()
            start = time.perf_counter()
            run()
            result.seconds[name].append(time.perf_counter() - start)
            gc.enable()
    return result


def _child(
    target: Callable[..., Any], arguments: tuple[Any, ...], before: Callable[[], Any] | None, queue: Any
) -> None:
    """Run the target; report its result, its time, and peak resident memory above where it started."""
    import psutil

    if before is not None:
        before()
        gc.collect()
    process = psutil.Process()
    base = peak = process.memory_info().rss
    anonymous_base = anonymous = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak, anonymous
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            anonymous = max(anonymous, _anonymous())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    value = target(*arguments)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    queue.put((value, seconds, peak - base, anonymous - anonymous_base))


def _anonymous() -> int:
    """Resident memory that is not mapped files, in bytes (Linux)."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class ChildRun:
    """What a child process did: result, seconds, and growth of peak memory in bytes."""

    value: Any
    seconds: float
    peak_resident: int
    peak_anonymous: int


def in_child(
    target: Callable[..., Any], *arguments: Any, before: Callable[[], Any] | None = None
) -> ChildRun:
    """Run a module-level function in a fresh process and watch its memory; ``before`` is not counted."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_child, args=(target, arguments, before, queue))
    process.start()
    result = queue.get()
    process.join()
    return ChildRun(*result)


def machine() -> str:
    """One line on where and with what the figures were taken."""
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in ("pyarrow", "vortex-data", "faiss-cpu", "obstore", "duckdb", "pylance")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = next((line.split(": ")[1].strip() for line in info if line.startswith("model name")), model)
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}, {packages}"
    )


def show(result: Comparison, base: str = "lake") -> str:
    """One line per contestant: median time and its ratio to ours."""
    lines = [f"## {result.task}"]
    for name in result.seconds:
        median = result.median(name)
        note = f"  {result.notes[name]}" if name in result.notes else ""
        lines.append(f"  {name:<28} {_time(median):>10}   {median / result.median(base):6.2f}x{note}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"
