"""The notebooks run afresh from top to bottom, with real embeddings, and show what is committed with them.

A cell tagged ``stable`` prints the same on every machine, and its output has to be the committed one. The others
depend on the texts of the Python at hand.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import nbformat
import numpy as np
import pyarrow.json as pa_json
import pytest
from nbclient import NotebookClient
from pyiceberg.catalog.sql import SqlCatalog
from repository import ROOT
from spark_session import need_java

import lake_format as lake

NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
ROWS = 2000
SPARK_ROWS = 500
SECONDS_PER_CELL = 300  # only so that a kernel that hangs ends


@dataclass(frozen=True)
class Run:
    """A notebook as it is committed and as it came out of a run, and the folder it ran in."""

    committed: Any
    done: Any
    folder: Path


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return executed("quickstart", tmp_path_factory.mktemp("quickstart"))


@pytest.fixture(scope="module")
def duckdb_knn(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return executed("duckdb_knn", tmp_path_factory.mktemp("duckdb_knn"))


@pytest.fixture(scope="module")
def spark_etl(tmp_path_factory: pytest.TempPathFactory) -> Run:
    need_java()
    return executed("spark_etl", tmp_path_factory.mktemp("spark_etl"))


@pytest.fixture(scope="module")
def iceberg_search(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return executed("iceberg_search", tmp_path_factory.mktemp("iceberg_search"))


def executed(name: str, folder: Path) -> Run:
    for helper in NOTEBOOKS.glob("*.py"):
        shutil.copy(helper, folder)
    committed = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    done = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in code(done):
        cell.outputs = []
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(done, timeout=SECONDS_PER_CELL, kernel_name="python3", resources=place).execute()
    return Run(committed, done, folder)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[str]:
    """What a cell prints and returns, as text."""
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


def stable(notebook: Any) -> dict[str, list[str]]:
    """Outputs by source, of cells that print the same everywhere."""
    return {cell.source: shown(cell) for cell in code(notebook) if "stable" in cell.metadata.get("tags", [])}


def pictures(notebook: Any) -> list[np.ndarray]:
    found = [
        output for cell in code(notebook) for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    return [
        matplotlib.image.imread(io.BytesIO(base64.b64decode(output["data"]["image/png"]))) for output in found
    ]


def colours(picture: np.ndarray) -> int:
    return len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0))


def test_quickstart_shows_what_is_committed(quickstart: Run) -> None:
    assert len(stable(quickstart.committed)) >= 8
    assert stable(quickstart.done) == stable(quickstart.committed)
    (picture,) = pictures(quickstart.done)
    assert colours(picture) > 100


def test_quickstart_leaves_a_sound_table(quickstart: Run) -> None:
    docs = lake.open(str(quickstart.folder / "docs"))
    assert docs.key == ["id"]
    assert docs.count() == ROWS + 1 + 8
    assert docs.count("seconds * 4 <> words") == 0
    assert lake.open(docs.uri, tag="as-loaded").count() == ROWS
    assert lake.open(docs.uri, branch="short").count("words > 20") == 0
    assert docs.verify().ok


def test_the_embeddings_mean_something_and_the_index_finds_them(quickstart: Run) -> None:
    """Paragraphs lie nearest to paragraphs of their own module far more often than by chance."""
    docs = lake.open(str(quickstart.folder / "docs"), tag="as-loaded")
    asked = docs.scan(columns=["id", "module", "vec"], where="id % 20 = 0").read_all()
    queries = np.stack(asked["vec"].to_numpy(zero_copy_only=False))
    assert np.linalg.norm(queries, axis=1) == pytest.approx(1, abs=1e-5)
    near, true = (
        docs.search(queries, k=10, select=["id", "module"], exact=exact).to_arrow().to_pandas()
        for exact in (False, True)
    )
    hits = set(zip(near["_query"], near["id"], strict=True)) & set(
        zip(true["_query"], true["id"], strict=True)
    )
    assert len(hits) >= 0.9 * len(true)
    others = true[true["id"].to_numpy() != np.array(asked["id"])[true["_query"]]]
    own = others["module"].to_numpy() == np.array(asked["module"])[others["_query"]]
    sizes = docs.scan(columns=["module"]).read_all().to_pandas()["module"].value_counts(normalize=True)
    assert own.mean() > 5 * (sizes**2).sum()


def test_duckdb_knn_shows_what_is_committed(duckdb_knn: Run) -> None:
    assert len(stable(duckdb_knn.committed)) >= 6
    assert stable(duckdb_knn.done) == stable(duckdb_knn.committed)
    (picture,) = pictures(duckdb_knn.done)
    assert colours(picture) > 20


def test_duckdb_knn_leaves_what_sql_wrote(duckdb_knn: Run) -> None:
    library = str(duckdb_knn.folder / "library")
    assert lake.list_tables(library) == ["docs", "short"]
    docs, short = (lake.open(f"{library}/{name}") for name in ("docs", "short"))
    assert docs.count() == ROWS + 1
    assert short.count() == docs.count("words <= 12")
    assert docs.verify().ok
    assert short.verify().ok


def test_spark_etl_shows_what_is_committed(spark_etl: Run) -> None:
    assert len(stable(spark_etl.committed)) >= 8
    assert stable(spark_etl.done) == stable(spark_etl.committed)
    (picture,) = pictures(spark_etl.done)
    assert colours(picture) > 20


def test_spark_etl_leaves_each_paragraph_once_with_its_own_vector(spark_etl: Run) -> None:
    docs = lake.open(str(spark_etl.folder / "library/docs"))
    rows = docs.to_arrow().sort_by("id")
    raw = [pa_json.read_json(path) for path in (spark_etl.folder / "raw").rglob("*.json")]
    assert sum(one.num_rows for one in raw) > docs.count()
    once = {row["id"]: row for one in raw for row in one.to_pylist()}
    assert rows.drop_columns(["vec", "characters"]).to_pylist() == [once[at] for at in range(SPARK_ROWS)]
    assert rows["characters"].to_pylist() == [len(text) for text in rows["text"].to_pylist()]
    vectors = np.stack(rows["vec"].to_numpy(zero_copy_only=False))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(np.unique(vectors, axis=0)) == SPARK_ROWS
    assert docs.verify().ok


def test_iceberg_search_shows_what_is_committed(iceberg_search: Run) -> None:
    assert len(stable(iceberg_search.committed)) >= 8
    assert stable(iceberg_search.done) == stable(iceberg_search.committed)
    (picture,) = pictures(iceberg_search.done)
    assert colours(picture) > 20


def test_iceberg_search_leaves_both_tables_sound(iceberg_search: Run) -> None:
    folder = iceberg_search.folder
    catalog = SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.db")
    source = catalog.load_table("python.docs")
    first, second, _ = source.snapshots()
    for name, snapshot in (("docs", second), ("earlier", first), ("latest", None)):
        table = lake.open(f"{folder}/library/{name}", allow_external=source.location())
        asked = source.scan(snapshot_id=None if snapshot is None else snapshot.snapshot_id)
        kept = [row for row in asked.to_arrow().to_pylist() if name != "docs" or row["words"] <= 35]
        assert sorted(table.to_arrow()["id"].to_pylist()) == sorted(row["id"] for row in kept)
        assert table.verify().ok


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_as_it_ran(name: str) -> None:
    """Whole, in order, without errors and warnings, of readable size, and saying nothing of the machine."""
    path = NOTEBOOKS / f"{name}.ipynb"
    cells = code(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"execute_result", "display_data"}
    assert path.stat().st_size < 200_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", path.read_text("utf-8"))


def test_every_notebook_is_run() -> None:
    assert NAMES == ["duckdb_knn", "iceberg_search", "quickstart", "spark_etl"]
