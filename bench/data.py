"""Data sets of the benchmarks: generated vectors with cluster structure, and real images."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

CACHE = Path(__file__).resolve().parent.parent / ".cache"
FASHION = "usr/share/dataset-fashion-mnist"


def clustered(
    rows: int, dimension: int = 128, queries: int = 200, seed: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around Zipf-sized clusters with a decaying spectrum, and queries of the same kind.

    Plain uniform noise has no neighbours worth finding; embeddings have clusters and a low intrinsic dimension.
    """
    random = np.random.default_rng(seed)
    centres = 2000
    spectrum = (1 / np.sqrt(1 + np.arange(dimension) / 8)).astype(np.float32)
    rotation = np.linalg.qr(random.normal(size=(dimension, dimension)))[0].astype(np.float32)
    middles = random.normal(size=(centres, dimension)).astype(np.float32) * spectrum
    weights = 1 / np.arange(1, centres + 1) ** 0.6
    owners = random.choice(centres, rows + queries, p=weights / weights.sum())
    out = np.empty((rows + queries, dimension), np.float32)
    for start in range(0, len(out), 65_536):
        part = owners[start : start + 65_536]
        noise = random.normal(size=(len(part), dimension)).astype(np.float32) * spectrum
        block = (middles[part] + 0.7 * noise) @ rotation
        out[start : start + 65_536] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out[:rows], out[rows:]


def fashion_mnist() -> tuple[np.ndarray, np.ndarray]:
    """The 60,000 training and 10,000 test images as float32 rows of 784 pixels, from Debian's package."""
    root = CACHE / "fashion-mnist"
    folder = next(root.rglob("train-images-idx3-ubyte*"), None) if root.exists() else None
    if folder is None:
        root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "dataset-fashion-mnist"], cwd=root, check=True)
        package = next(root.glob("*.deb"))
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
    return _images(root, "train"), _images(root, "t10k")


def _images(root: Path, part: str) -> np.ndarray:
    path = next(root.rglob(f"{part}-images-idx3-ubyte*"))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784).astype(np.float32)


def items(vectors: np.ndarray, seed: int = 3, batch: int = 65_536) -> Iterator[pa.RecordBatch]:
    """Rows around the vectors: id, uid, title, category, ts, price, text."""
    random = np.random.default_rng(seed)
    words = np.array(
        [
            f"{a}{b}"
            for a in ("re", "un", "sub", "in", "over")
            for b in ("act", "form", "port", "view", "set", "lay")
        ]
    )
    dimension = vectors.shape[1]
    for start in range(0, len(vectors), batch):
        part = vectors[start : start + batch]
        rows = len(part)
        ids = np.arange(start, start + rows)
        yield pa.record_batch(
            {
                "id": pa.array(ids),
                "uid": pa.array(random.permutation(rows) + start * 3),
                "title": pa.array([" ".join(w) for w in random.choice(words, (rows, 5))]),
                "category": pa.array([f"category/{c}" for c in random.integers(0, 50, rows)]),
                "ts": pa.array(np.datetime64("2024-01-01", "us") + ids * np.timedelta64(1_000_000, "us")),
                "price": pa.array(random.uniform(0, 100, rows)),
                "text": pa.array([" ".join(w) for w in random.choice(words, (rows, 40))]),
                "vec": pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), dimension),
            }
        )


def nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The true k nearest rows of each query by Euclidean distance, shape ``(queries, k)``."""
    import faiss

    return faiss.knn(queries, vectors, k)[1]
