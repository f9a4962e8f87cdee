"""A corpus that every Python has: the paragraphs of its own standard library's docstrings.

Nothing is imported or run; the sources are parsed. Which paragraphs there are depends on the Python, so their
order is fixed and their number is what the caller asks for.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

__all__ = ["TOPICS", "paragraphs"]

TOPICS = {
    "data": [
        "csv",
        "json",
        "sqlite3",
        "pickle",
        "plistlib",
        "configparser",
        "tomllib",
        "zipfile",
        "tarfile",
        "gzip",
    ],
    "network": [
        "asyncio",
        "socket",
        "ssl",
        "http",
        "urllib",
        "email",
        "smtplib",
        "ftplib",
        "imaplib",
        "socketserver",
    ],
    "numbers": [
        "statistics",
        "fractions",
        "random",
        "datetime",
        "calendar",
        "zoneinfo",
        "heapq",
        "bisect",
        "_pydecimal",
    ],
    "system": [
        "os",
        "pathlib",
        "shutil",
        "subprocess",
        "threading",
        "multiprocessing",
        "concurrent",
        "logging",
    ],
    "text": ["string", "textwrap", "re", "difflib", "html", "argparse", "locale", "gettext", "xml", "pprint"],
    "tools": [
        "unittest",
        "doctest",
        "pdb",
        "profile",
        "timeit",
        "trace",
        "inspect",
        "dis",
        "ast",
        "tokenize",
    ],
}

SHORTEST, LONGEST = 8, 40  # words of a paragraph


def paragraphs(limit: int) -> pa.Table:
    """Paragraphs of docstrings with where they are from: id, topic, module, name, text, words.

    Parameters
    ----------
    limit
        How many, spread evenly over all there are (some 4,000 in Python 3.11).
    """
    found: list[dict[str, object]] = []
    seen: set[str] = set()
    library = Path(sysconfig.get_path("stdlib"))
    for topic, modules in TOPICS.items():
        for path in _sources(library, modules):
            module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
            for name, text in _documented(path):
                if text not in seen:
                    seen.add(text)
                    found.append({"topic": topic, "module": module, "name": name, "text": text})
    step = max(len(found) / limit, 1.0)
    chosen = [found[int(number * step)] for number in range(min(limit, len(found)))]
    rows = [
        {"id": number, **row, "words": len(str(row["text"]).split())} for number, row in enumerate(chosen)
    ]
    return pa.Table.from_pylist(rows)


def _sources(library: Path, modules: list[str]) -> Iterator[Path]:
    for module in modules:
        file = library / f"{module}.py"
        yield from [file] if file.exists() else sorted((library / module).rglob("*.py"))


def _documented(path: Path) -> Iterator[tuple[str, str]]:
    """Name and paragraph, for each paragraph of prose in a file's docstrings."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = getattr(node, "name", "")
            for block in re.split(r"\n\s*\n", inspect.cleandoc(ast.get_docstring(node) or "")):
                text = " ".join(block.split())
                if SHORTEST <= len(text.split()) <= LONGEST and ">>>" not in text:
                    yield name, text
