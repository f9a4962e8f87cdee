"""The engines under test. Each module is imported only when its engine is asked for."""

from __future__ import annotations

import importlib

from conformance.engine import EngineUnderTest

ENGINES = ("duckdb", "datafusion", "polars", "pyarrow", "spark")


def load(name: str) -> EngineUnderTest:
    """The engine of that name."""
    engine: EngineUnderTest = importlib.import_module(f"conformance.engines.{name}").ENGINE
    return engine
