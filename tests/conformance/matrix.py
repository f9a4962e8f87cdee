"""The support matrix as a page: ``python -m conformance.matrix`` in ``tests/`` writes ``connectors/SUPPORT.md``."""

from __future__ import annotations

from pathlib import Path

from conformance.engine import CAPABILITIES
from conformance.engines import ENGINES, load

PAGE = Path(__file__).parents[2] / "connectors" / "SUPPORT.md"
_SHOWN = {"pushed": "**pushed**", "answered": "yes", "refused": "error", "absent": "–"}
_INTRODUCTION = """# What each engine can do with a table

Made from the claims of the conformance suite ([tests/conformance](../tests/conformance/__init__.py)); each is held to
by a test that reads the same tables through every engine and counts what reaches the store.

**pushed**: the table does it, and nothing is read in vain. yes: right, done by the engine over what the table hands
out. error: refused with a clear error. –: the engine has no such thing.
"""


def page() -> str:
    """The page as text."""
    engines = [load(name) for name in ENGINES]
    lines = [
        "| capability | " + " | ".join(engine.name for engine in engines) + " |",
        "|---" * (len(engines) + 1) + "|",
    ]
    for capability, meaning in CAPABILITIES.items():
        cells = (_SHOWN[engine.support[capability]] for engine in engines)
        lines.append(f"| {capability}: {meaning} | " + " | ".join(cells) + " |")
    notes = [
        f"- {engine.name}, `{where}`: {why}." for engine in engines for where, why in engine.differs.items()
    ]
    parts = [_INTRODUCTION, "\n".join(lines)]
    if notes:
        parts += [
            "Filters by which an engine selects other rows than from its own copy of them:",
            "\n".join(notes),
        ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
