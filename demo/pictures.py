"""Small grey pictures in a terminal, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rich.text import Text

__all__ = ["picture_row"]

SIDE = 28
_RAMP = " .:-=+*#%@"


def picture_row(images: Sequence[npt.NDArray[np.float32]], captions: Sequence[str], *, colour: bool) -> Text:
    """Pictures of 14 × 14 points beside each other, each with a caption above.

    Parameters
    ----------
    images
        Grey values from 0 to 1; shape ``(784,)`` each.
    colour
        Whether half blocks in shades of grey can be shown; else letters of growing darkness.
    """
    shrunk = [image.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3)) for image in images]
    row = Text()
    for caption in captions:
        row.append(f"{caption:<{SIDE // 2 + 2}}"[: SIDE // 2 + 2], style="bold")
    for line in range(0, SIDE // 2, 2):
        row.append("\n")
        for image in shrunk:
            _append_line(row, image, line, colour=colour)
            row.append("  ")
    return row


def _append_line(row: Text, image: npt.NDArray[np.float32], line: int, *, colour: bool) -> None:
    for column in range(SIDE // 2):
        upper, lower = float(image[line, column]), float(image[line + 1, column])
        if colour:
            row.append("▀", style=f"{_grey(upper)} on {_grey(lower)}")
        else:
            shade = _RAMP[min(int((upper + lower) / 2 * len(_RAMP)), len(_RAMP) - 1)]
            row.append(shade)


def _grey(value: float) -> str:
    level = min(max(round(value * 255), 0), 255)
    return f"rgb({level},{level},{level})"
