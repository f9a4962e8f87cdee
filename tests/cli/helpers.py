"""What tests of the command line share: rows to work on, and what one command line did."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

LAKE = str(Path(sys.executable).with_name("lake"))
ROWS = 300
DIMENSION = 8


@dataclass(frozen=True)
class Done:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The JSON lines of its output."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


def rows(count: int = ROWS, start: int = 0) -> pa.Table:
    vectors = np.random.default_rng(7 + start).normal(size=(count, DIMENSION)).astype(np.float32)
    ids = np.arange(start, start + count)
    return pa.table(
        {
            "id": ids,
            "title": [None if i % 10 == 3 else f"row {i}, “{i}”" for i in ids],
            "price": ids / 4,
            "vec": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION),
        }
    )
