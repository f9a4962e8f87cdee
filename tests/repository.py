"""Where things are in this repository: files by kind, for the tests that hold house rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    ROOT / "lake_format",
    ROOT / "engines" / "lake_engines",
    ROOT / "connectors" / "lake_connectors",
)
CODE_FOLDERS = (*PACKAGES, ROOT / "tests", ROOT / "demo", ROOT / "bench", ROOT / "notebooks")
SPEC = ROOT / "spec"


def python_files(*folders: Path) -> list[Path]:
    """All Python files below the folders; every code folder where none is named."""
    return sorted(path for folder in folders or CODE_FOLDERS for path in folder.rglob("*.py"))


def markdown_files() -> list[Path]:
    """All Markdown files of the repository, not those of installed packages or caches."""
    found = [path for path in ROOT.rglob("*.md") if not _is_foreign(path.relative_to(ROOT))]
    return sorted(found)


def module_name(path: Path) -> str:
    """The dotted name of a file of one of the packages."""
    package = next(package for package in PACKAGES if path.is_relative_to(package))
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones included."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _is_foreign(path: Path) -> bool:
    return any(part.startswith(".") or part in ("demo-lake", "build", "dist") for part in path.parts)
