"""Long runs of the machine: ``make fuzz``, or ``python -m machine.fuzz --steps 100000 --seed 7`` from ``tests``.

Each process goes through seeds of its own. A failure is shrunk, printed as code that repeats it, and ends the run
with status 1; the seed that is printed with it finds it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import traceback
from dataclasses import dataclass
from functools import partial

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .table_machine import TableMachine

SETTINGS = settings(
    max_examples=6,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
AS_FOUND = settings(SETTINGS, phases=[Phase.generate])


@dataclass(frozen=True)
class Limits:
    """When a run is over."""

    steps: int
    minutes: float
    keep_going: bool


def run_seed(seed: int, shrink: bool) -> tuple[int, str]:
    """Histories of one seed; returns steps done and, if one failed, what to read."""

    class Seeded(TableMachine):
        steps = 0
        _hypothesis_internal_use_seed = seed

    try:
        run_state_machine_as_test(Seeded, settings=SETTINGS if shrink else AS_FOUND)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
        notes = "\n".join(getattr(error, "__notes__", ()))
        return Seeded.steps, f"seed {seed}\n{notes}\n{''.join(traceback.format_exception(error))}"
    return Seeded.steps, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=0, help="stop after so long; 0: steps alone count")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a failure, and do not shrink it"
    )
    given = parser.parse_args()
    limits = Limits(given.steps, given.minutes, given.keep_going)
    print(f"seed {given.seed}, until {given.steps:,} steps are done", flush=True)
    begun, done, failures, told = time.monotonic(), 0, 0, 0.0
    seeds = range(given.seed, given.seed + 100_000)
    with multiprocessing.get_context("spawn").Pool(given.processes, maxtasksperchild=20) as pool:
        for steps, failure in pool.imap_unordered(partial(run_seed, shrink=not limits.keep_going), seeds):
            done += steps
            passed = time.monotonic() - begun
            if failure:
                failures += 1
                print(f"FAILED after {done:,} steps, {failure}", flush=True)
            if passed - told > 20:
                told = passed
                print(f"{done:,} steps, {failures} failures, {passed / 60:.1f} minutes", flush=True)
            if (failure and not limits.keep_going) or done >= limits.steps:
                break
            if limits.minutes and passed > limits.minutes * 60:
                break
        pool.terminate()
    print(f"{done:,} steps, {failures} failures, {(time.monotonic() - begun) / 60:.1f} minutes", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
