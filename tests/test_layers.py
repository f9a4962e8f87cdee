"""What may import what, and what an import may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

HEAVY = {
    "duckdb",
    "faiss",
    "vortex",
    "pandas",
    "polars",
    "pyarrow",
    "numpy",
    "obstore",
    "sqlglot",
    "click",
    "rich",
}


def loaded_after(code: str, cwd: Path = ROOT) -> set[str]:
    """Names of all modules in a fresh process that ran this code."""
    program = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def top(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_layering_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_loads_nothing_but_itself() -> None:
    """The import budget (0.15 s over pyarrow), held by what is imported rather than by a clock."""
    new = top(loaded_after("import lake_format") - loaded_after("pass"))
    assert not new & HEAVY
    assert {name for name in new if name not in sys.stdlib_module_names} == {"lake_format"}


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        (
            "import lake_format; lake_format.create, lake_format.open, lake_format.LakeError",
            {"pyarrow.parquet"},
        ),
        ("import lake_format; lake_format.NotFoundError", {"pyarrow", "numpy"}),
    ],
)
def test_first_use_of_a_name_loads_no_engine(code: str, forbidden: set[str]) -> None:
    loaded = loaded_after(code)
    assert not loaded & (forbidden | {"duckdb", "faiss", "vortex", "polars", "sqlglot", "lake_engines"})


def test_describing_a_table_loads_no_engine(tmp_path: Path) -> None:
    code = (
        "import lake_format as lake, pyarrow as pa\n"
        f"lake.create({str(tmp_path / 't')!r}, pa.schema([('id', pa.int64())]))\n"
        f"table = lake.open({str(tmp_path / 't')!r})\n"
        "table.schema, table.versions(), table.inspect.files(), table.count()"
    )
    assert not top(loaded_after(code)) & {
        "duckdb",
        "faiss",
        "vortex",
        "polars",
        "sqlglot",
        "obstore",
        "lake_engines",
    }


def test_scanning_without_a_filter_or_index_loads_no_search_library(tmp_path: Path) -> None:
    code = (
        "import lake_format as lake, pyarrow as pa\n"
        f"table = lake.create({str(tmp_path / 't')!r}, pa.schema([('id', pa.int64())]))\n"
        "table.append([{'id': 1}])\n"
        "assert table.to_arrow().num_rows == 1"
    )
    assert not top(loaded_after(code)) & {"duckdb", "faiss", "polars", "sqlglot"}
