"""Every connector is optional: without its engine the error names the extra, and everything else works."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("connector", "package"),
    [
        ("duckdb", "duckdb"),
        ("datafusion", "datafusion"),
        ("polars", "polars"),
        ("spark", "pyspark"),
        ("iceberg", "pyiceberg"),
    ],
)
def test_a_missing_engine_is_named_and_everything_else_works(connector: str, package: str) -> None:
    code = f"""if True:
        import sys
        sys.modules["{package}"] = None
        import lake_format as lake
        try:
            import lake_connectors.{connector}
        except lake.UnsupportedError as error:
            print(error)
        table = lake.create("memory://extras", __import__("pyarrow").schema([("n", "int64")]))
        print(table.append([{{"n": 1}}]).count())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'lake-format[{connector}]'" in done.stdout
    assert done.stdout.strip().endswith("1")
