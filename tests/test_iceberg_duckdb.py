"""What is published is read by DuckDB's Iceberg extension as the table holds it: an engine that is not pyiceberg.

The extension is there for DuckDB 1.5 only, so it runs in an environment of its own, which the first run makes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from publish_samples import counted, held, life, read
from repository import ROOT

from lake_connectors import iceberg

PACKAGES = ("duckdb==1.5.5", "duckdb-extension-iceberg==1.5.5", "duckdb-extension-avro==1.5.5")
READER = """
import glob, importlib, json, os, sys
import duckdb
con = duckdb.connect(config={"allow_unsigned_extensions": True})
for name in ("avro", "iceberg"):
    folder = os.path.dirname(importlib.import_module(f"duckdb_extension_{name}").__file__)
    (extension,) = glob.glob(f"{folder}/**/*.duckdb_extension", recursive=True)
    con.execute(f"LOAD '{extension}'")
def read(location, where):
    cursor = con.execute(f"SELECT * FROM iceberg_scan('{location}') WHERE {where}")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row)) for row in cursor.fetchall()]
json.dump([[read(location, where) for where in wheres] for location, wheres in json.load(sys.stdin)], sys.stdout)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with DuckDB 1.5 and its extensions; a failure where it cannot be made."""
    place = tmp_path_factory.mktemp("duckdb")
    uv = shutil.which("uv") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
    if Path(uv).exists():
        make = [[uv, "venv", "-q", "--python", sys.executable, str(place)]]
        install = [uv, "pip", "install", "-q", "--python", f"{place}/bin/python", *PACKAGES]
    else:
        make = [[sys.executable, "-m", "venv", str(place)]]
        install = [f"{place}/bin/python", "-m", "pip", "install", "-q", *PACKAGES]
    for command in [*make, install]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"no environment with {' '.join(PACKAGES)} could be made: {done.stderr}")
    return place / "bin" / "python"


@pytest.mark.long
def test_duckdb_reads_every_publication_as_pyiceberg_does(python: Path, tmp_path: Path) -> None:
    """spec: CPY-11"""
    table = counted(tmp_path / "t")
    wanted, expected = [], []
    for change in [lambda: None, *life(table)]:
        change()
        published = iceberg.publish(table, keep=20)
        rows = held(table)
        assert read(published) == rows
        ids = sorted(rows)
        middle = ids[len(ids) // 2]
        wanted.append((published.metadata_location, ["true", f"id <= {middle}", f"id = {ids[-1]}"]))
        expected.append([rows, {one: rows[one] for one in ids if one <= middle}, {ids[-1]: rows[ids[-1]]}])
    wanted.append((published.location, ["true"]))
    expected.append([held(table)])
    done = subprocess.run(
        [str(python), "-c", READER], input=json.dumps(wanted), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for step, (parts, rows_of) in enumerate(zip(found, expected, strict=True)):
        for part, rows in zip(parts, rows_of, strict=True):
            assert {row["id"]: row for row in part} == rows, step
            assert len(part) == len(rows), step
