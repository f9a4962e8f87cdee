"""Turns the faults of vortex-data into ours: no Rust backtraces, always the file's name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from lake_format.errors import CorruptionError, LakeError

__all__ = ["first_line", "is_ours", "reading"]


def first_line(error: BaseException) -> str:
    """The message without the backtrace that vortex appends, at most 200 characters."""
    text = str(error).split("\nBacktrace:")[0].split("Python exception: Traceback")[0].strip()
    return (text.splitlines() or [type(error).__name__])[0][:200]


def is_ours(error: BaseException) -> bool:
    """Whether an error did not come from vortex, and must reach the caller as it is."""
    stops = not isinstance(error, Exception) and type(error).__name__ != "PanicException"
    return isinstance(error, LakeError) or stops


@contextlib.contextmanager
def reading(path: str, faults: Sequence[BaseException] = ()) -> Iterator[None]:
    """Report what fails while the Vortex file ``path`` is read as a CorruptionError.

    ``faults`` are the errors of our own reads, which vortex swallows: the last one is the cause and is raised
    as it is. A panic inside vortex is a ``BaseException`` of a class that cannot be imported: it is known by
    its name.
    """
    try:
        yield
    except BaseException as error:
        if is_ours(error):
            raise
        if faults:
            raise faults[-1] from None
        raise CorruptionError(f"Vortex file {path!r} cannot be read: {first_line(error)}") from None
