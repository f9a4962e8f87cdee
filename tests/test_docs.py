"""The documentation runs: examples in Markdown and in docstrings are executed and their output compared.

In Markdown, ``python`` blocks with ``>>>`` and ``console`` blocks with ``$`` are run in order, in an empty folder of
each file's own, where the Python examples of a file share one namespace. ``...`` in expected output stands for
anything.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from repository import PACKAGES, ROOT, markdown_files, module_name, python_files

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One runnable block of a Markdown file."""

    language: str
    text: str
    line: int


def blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    found = [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in BLOCK.finditer(text)
    ]
    return [block for block in found if re.search(r"^(>>>|\$) ", block.text, re.MULTILINE)]


WITH_EXAMPLES = [path for path in markdown_files() if blocks(path)]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=[str(path.relative_to(ROOT)) for path in WITH_EXAMPLES])
def test_examples_of_a_page_run_and_print_what_it_says(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    namespace: dict[str, object] = {}
    for block in blocks(path):
        place = f"{path.name}, line {block.line}"
        if block.language == "python":
            run_python(block, place, namespace)
        else:
            run_console(block, place)


def run_python(block: Block, place: str, namespace: dict[str, object]) -> None:
    example = doctest.DocTestParser().get_doctest(block.text, namespace, place, place, block.line)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    runner.run(example, out=report.append, clear_globs=False)
    namespace.update(example.globs)
    assert runner.failures == 0, "".join(report)


def run_console(block: Block, place: str) -> None:
    for command, expected in commands(block.text):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120
        )
        printed = done.stdout + done.stderr
        assert doctest.OutputChecker().check_output(expected, printed, OPTIONS), (
            f"{place}: $ {command}\nexpected:\n{expected}\nprinted:\n{printed}"
        )


def commands(text: str) -> list[tuple[str, str]]:
    """Commands of a console block, each with the output that follows it; a backslash continues a line."""
    joined = text.replace("\\\n", "")
    parts = re.split(r"^\$ (.*)\n", joined, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_readme_shows_python_sql_and_shell() -> None:
    languages = [block.language for block in blocks(ROOT / "README.md")]
    assert {"python", "console"} <= set(languages)


MODULES = [module_name(path) for path in python_files(*PACKAGES) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=OPTIONS)
    assert result.failed == 0
