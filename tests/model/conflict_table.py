"""Renders the conflict matrix as the table of spec/identity.md; run as a program, it mends the chapter."""

from __future__ import annotations

from pathlib import Path

from lake_format.conflicts import Matrix, load_matrix

_LETTERS = {"commute": "·", "remap": "m", "yield": "y", "replan": "p", "conflict": "C"}


def render(matrix: Matrix) -> str:
    """One line a kind (mine), one column a kind (theirs); the letters of a cell from strong to weak."""
    kinds = list(matrix.kinds)
    numbers = " | ".join(str(n) for n in range(1, len(kinds) + 1))
    lines = [f"| # | mine \\ theirs | {numbers} |", "|---" * (len(kinds) + 2) + "|"]
    for number, mine in enumerate(kinds, 1):
        cells = " | ".join(_cell(matrix, mine, theirs) for theirs in kinds)
        lines.append(f"| {number} | {mine} | {cells} |")
    return "\n".join(lines)


def _cell(matrix: Matrix, mine: str, theirs: str) -> str:
    """An always-rule is bold; ``*`` marks a cell to which serializable isolation adds a rule."""
    rules = matrix.snapshot[mine, theirs]
    actions = sorted({action for _, action in rules}, key=lambda action: -action.strength)
    letters = "".join(_LETTERS[action] for action in actions) or _LETTERS["commute"]
    if any(name == "always" for name, _ in rules):
        letters = f"**{letters}**"
    return letters + ("\\*" if (mine, theirs) in matrix.serializable else "")


def _mend(chapter: Path) -> None:
    before, rest = chapter.read_text("utf-8").split("<!-- matrix -->\n", 1)
    after = rest.split("<!-- end of matrix -->", 1)[1]
    table = render(load_matrix())
    chapter.write_text(f"{before}<!-- matrix -->\n{table}\n<!-- end of matrix -->{after}", "utf-8")


if __name__ == "__main__":
    _mend(Path(__file__).parents[2] / "spec" / "identity.md")
