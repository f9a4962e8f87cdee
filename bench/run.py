"""Runs every benchmark and writes what they print to ``bench/RESULTS.md``: ``python bench/run.py [name …]``.

Names are the keys of ``BENCHMARKS``; without any, all run. What the figures mean and what is left to win stands in
``bench/README.md``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from bench.harness import machine

BENCHMARKS = {
    "core": ["-m", "bench.core"],
    "row_changes": ["-m", "bench.row_changes"],
    "files_formats": ["-m", "bench.files_formats"],
    "index_kernel": ["-m", "bench.index_kernel"],
    "duckdb_knn": ["-m", "bench.duckdb_knn"],
    "lance_engines": ["-m", "bench.lance_engines"],
    "engines": ["-m", "bench.engines"],
    "iceberg": ["-m", "bench.iceberg"],
    "commits": ["-m", "bench.commits"],
    "upkeep": ["-m", "bench.upkeep"],
}


def main(names: list[str]) -> None:
    """Run the benchmarks asked for and replace their sections of the results."""
    chosen = names or list(BENCHMARKS)
    unknown = sorted(set(chosen) - set(BENCHMARKS))
    if unknown:
        sys.exit(f"error: no benchmark {unknown[0]!r} — there are {', '.join(BENCHMARKS)}")
    results = HERE / "RESULTS.md"
    sections = _sections(results.read_text(encoding="utf-8")) if results.exists() else {}
    for name in chosen:
        print(f"== {name}", flush=True)
        stamp = f"{time.strftime('%Y-%m-%d')} · {machine()}"
        sections[name] = f"{stamp}\n\n```\n{_output(BENCHMARKS[name])}\n```\n"
        results.write_text(_text(sections), encoding="utf-8")


def _output(arguments: list[str]) -> str:
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        env={**os.environ, "LANCE_LOG": "error"},
        text=True,
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    if process.wait():
        sys.exit(f"error: {' '.join(arguments)} ended with {process.returncode}")
    return "\n".join(lines).strip()


def _sections(text: str) -> dict[str, str]:
    parts = text.split("\n# ")[1:]
    return {name: body for name, _, body in (part.partition("\n\n") for part in parts)}


def _text(sections: dict[str, str]) -> str:
    head = "Written by `make bench`. What the figures mean: [README.md](README.md).\n"
    ordered = [name for name in BENCHMARKS if name in sections]
    return head + "".join(f"\n# {name}\n\n{sections[name]}" for name in ordered)


if __name__ == "__main__":
    main(sys.argv[1:])
