"""The demo, run as its users run it, on small files in the format of the real ones."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from repository import ROOT

import lake_format as lake

DEMO = ROOT / "demo"
TRAIN, TEST = 1200, 220


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """IDX files of ten kinds of blurred squares, so that neighbours are of the same kind."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    shapes = random.random((10, 28, 28)) * 200
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        pixels = np.clip(shapes[labels] + random.normal(0, 20, (count, 28, 28)), 0, 255).astype(np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte.gz", 0x803, pixels)
        write_idx(folder / f"{split}-labels-idx1-ubyte.gz", 0x801, labels)
    return folder


def write_idx(path: Path, magic: int, values: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">{values.ndim + 1}I", magic, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


def run_demo(folder: Path, data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LAKE_DEMO_DATA": str(data)}
    command = [sys.executable, str(DEMO / "main.py")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_demo_runs_twice_and_its_next_commands_work(tmp_path: Path, data: Path) -> None:
    for _ in range(2):
        done = run_demo(tmp_path, data)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        for words in (
            "recall@10",
            "the query",
            "image_l2",
            "create_index",
            "knn('images'",
            "lake describe demo-lake",
        ):
            assert words in done.stdout
    table = lake.open(str(tmp_path / "demo-lake"))
    assert table.count() == TRAIN
    assert [row["operation"] for row in table.versions()] == ["create", *["append"] * 6, "create_index"]
    commands = done.stdout.partition("Now you")[2].strip().splitlines()[1:]
    assert len(commands) == 3
    for command in commands:
        shown = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout


def test_the_demo_leaves_what_is_not_its_own(tmp_path: Path, data: Path) -> None:
    (tmp_path / "demo-lake").mkdir()
    (tmp_path / "demo-lake" / "thesis.txt").write_text("ten years of work")
    done = run_demo(tmp_path, data)
    assert done.returncode == 1
    assert "was not made by this demo" in done.stderr
    assert (tmp_path / "demo-lake" / "thesis.txt").read_text() == "ten years of work"


@pytest.mark.parametrize("damage", ["cut", "magic", "missing"])
def test_damaged_or_missing_images_are_named(tmp_path: Path, data: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in data.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    victim = copy / "train-images-idx3-ubyte.gz"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:1000])
    elif damage == "magic":
        victim.write_bytes(gzip.compress(b"\x00\x00\x00\x01" + gzip.decompress(victim.read_bytes())[4:]))
    else:
        victim.unlink()
    done = run_demo(tmp_path, copy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "train-images-idx3-ubyte.gz" in done.stderr
    assert not (tmp_path / "demo-lake").exists()
