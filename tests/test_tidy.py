"""House rules as tests: sizes, forbidden constructs, live links, every clause of the specification tested."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from repository import PACKAGES, ROOT, SPEC, functions, markdown_files, module_name, parsed, python_files

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
LAYERS = ("lake_format", "lake_engines", "lake_connectors")
UNSAFE_MODULES = ("pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle")
CLAUSE = re.compile(r"\*\*([A-Z]{2,4}-\d+[a-z]?)\*\*")
CLAUSE_NAME = re.compile(r"\b([A-Z]{2,4})-(\d+[a-z]?)\b")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")


def require_none(paths: Iterable[Path], check: Callable[[Path], Iterator[str]]) -> None:
    """Fail with all that a rule finds in files, each with the file's name."""
    found = [f"{path.relative_to(ROOT)}: {text}" for path in paths for text in check(path)]
    assert not found, "\n".join(found)


# --- code ---------------------------------------------------------------------------------------------------


def test_modules_are_of_readable_size() -> None:
    def too_long(path: Path) -> Iterator[str]:
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MAX_MODULE_LINES:
            yield f"{lines} lines; split it by job"

    require_none(python_files(), too_long)


def test_functions_are_of_readable_size() -> None:
    def too_long(path: Path) -> Iterator[str]:
        for node in functions(parsed(path)):
            if (size := own_lines(node)) > MAX_FUNCTION_LINES:
                yield f"{node.name} has {size} lines without its docstring"

    require_none(python_files(), too_long)


def own_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without decorators and docstring."""
    whole = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is None or len(node.body) == 1:
        return whole
    return whole - ((first.end_lineno or first.lineno) - first.lineno + 1)


def test_nothing_is_left_unfinished() -> None:
    texts = [*python_files(), *markdown_files(), ROOT / "Makefile", ROOT / ".ci" / "run"]
    require_none(texts, lambda path: iter(UNFINISHED.findall(path.read_text("utf-8"))))


def test_no_error_is_swallowed() -> None:
    def swallowed(path: Path) -> Iterator[str]:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
                if node.type is None:
                    yield f"line {node.lineno}: a bare except"
                elif broad and all(isinstance(line, ast.Pass) for line in node.body):
                    yield f"line {node.lineno}: every error passed over"

    require_none(python_files(), swallowed)


def test_nothing_that_runs_stored_code_is_imported() -> None:
    def unsafe(path: Path) -> Iterator[str]:
        for line, module in imports(path):
            if module.partition(".")[0] in UNSAFE_MODULES:
                yield f"line {line} imports {module}"

    require_none(python_files(), unsafe)


def test_no_layer_names_a_higher_one() -> None:
    """Not even by an import inside a function; the contracts of test_layers.py see the rest."""

    def upward(path: Path) -> Iterator[str]:
        own = LAYERS.index(module_name(path).partition(".")[0])
        for line, module in imports(path):
            if module.partition(".")[0] in LAYERS[own + 1 :]:
                yield f"line {line} imports {module}"

    require_none(python_files(*PACKAGES), upward)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import of a file, wherever it stands."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def test_modules_say_their_job_and_list_what_they_offer() -> None:
    def unsaid(path: Path) -> Iterator[str]:
        tree = parsed(path)
        if tree.body and not ast.get_docstring(tree):
            yield "does not start with what it is for"
        if path.name != "__init__.py" and public_names(tree) is None:
            yield "has no __all__"

    require_none(python_files(*PACKAGES), unsaid)


def test_every_public_name_has_a_docstring() -> None:
    require_none(python_files(*PACKAGES), undocumented)


def undocumented(path: Path) -> Iterator[str]:
    tree = parsed(path)
    offered = public_names(tree) or set()
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name not in offered:
            continue
        if not ast.get_docstring(node):
            yield node.name
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            public = isinstance(part, ast.FunctionDef) and not part.name.startswith("_")
            if public and not ast.get_docstring(part) and not is_override(part):
                yield f"{node.name}.{part.name}"


def public_names(tree: ast.Module) -> set[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            getattr(target, "id", None) == "__all__" for target in node.targets
        ):
            return set(ast.literal_eval(node.value))
    return None


def is_override(node: ast.FunctionDef) -> bool:
    marks = {getattr(mark, "id", getattr(mark, "attr", None)) for mark in node.decorator_list}
    return bool(marks & {"override", "overload", "setter"})


# --- words --------------------------------------------------------------------------------------------------


def test_links_lead_somewhere() -> None:
    require_none(markdown_files(), dead_links)


def dead_links(path: Path) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", path.read_text("utf-8"))):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or not place.is_relative_to(ROOT):
            yield f"{target} leads nowhere"
        elif anchor and place.suffix == ".md" and anchor not in anchors(place):
            yield f"{target}: there is no such heading"


@cache
def anchors(path: Path) -> set[str]:
    """Anchors of a Markdown file's headings, the way forges make them."""
    headings = re.findall(r"^#+\s+(.*)$", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings)
    seen: Counter[str] = Counter()
    result = set()
    for slug in slugs:
        result.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return result


def test_constraints_pin_exactly_and_name_no_host() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][\w.]*( ; .+)?", line), line
    everything = [
        *python_files(),
        *markdown_files(),
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
        ROOT / "pyproject.toml",
    ]
    registry = re.compile(r"(?i)\b(index-url|find-links|extra-index|pythonhosted|simple/)")
    assert not [
        path for path in everything if path != Path(__file__) and registry.search(path.read_text("utf-8"))
    ]


# --- the specification --------------------------------------------------------------------------------------


@cache
def clauses() -> dict[str, Path]:
    """Every clause id of the specification and the chapter that has it."""
    found: dict[str, Path] = {}
    for chapter in sorted(SPEC.glob("*.md")):
        for clause in CLAUSE.findall(chapter.read_text("utf-8")):
            assert clause not in found, f"{clause} is in {found[clause].name} and again in {chapter.name}"
            found[clause] = chapter
    return found


@cache
def words_of(*folders: Path) -> set[str]:
    texts = (path.read_text("utf-8") for path in python_files(*folders) if path != Path(__file__))
    return {"-".join(match) for text in texts for match in CLAUSE_NAME.findall(text)}


def test_every_clause_has_a_test_that_names_it() -> None:
    tested = words_of(ROOT / "tests")
    missing = [f"{path.name}: {clause}" for clause, path in clauses().items() if clause not in tested]
    assert clauses()
    assert not missing, "no test names these"


def test_every_clause_that_code_names_exists() -> None:
    prefixes = {clause.partition("-")[0] for clause in clauses()}
    named_in_code = {word for word in words_of() if word.partition("-")[0] in prefixes}
    assert named_in_code <= set(clauses()), sorted(named_in_code - set(clauses()))
