"""Fixtures for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import lake_format as lake
from cli.helpers import Done, Run, rows
from lake_connectors.cli import run


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def call(*words: object) -> Done:
        capfdbinary.readouterr()
        code = run([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        return Done(code, out.decode(), err.decode())

    return call


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def items(here: Path) -> lake.Table:
    data = rows()
    return lake.create("items", data.schema).append(data)
