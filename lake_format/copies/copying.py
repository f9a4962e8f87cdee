"""Objects brought from one store to another: streamed, several at once, each read back and compared.

Knows bytes and paths, nothing of tables. An object appears in the target whole or not at all, so an interrupted copy
is simply done again: what is there already is compared instead of written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass

from lake_format.errors import AlreadyExistsError, CorruptionError
from lake_format.parallel import in_order
from lake_format.store.base import ByteRange, Store
from lake_format.store.table_store import name_of

__all__ = ["Copied", "Wanted", "copy_objects", "digest", "reported"]

_CHUNK_BYTES = 8 << 20
_AT_ONCE = 4
"""Objects on their way at the same time; with a remote writer's parts each takes up to 60 MiB of memory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to copy.

    Attributes
    ----------
    source, path
        What it is called where it comes from, and in the target.
    size, digest
        What is recorded of it; None where nothing is.
    """

    source: str
    path: str
    size: int | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """An object that is in the target, compared byte for byte with its source.

    ``written`` is False where it was there already.
    """

    path: str
    size: int
    digest: bytes
    written: bool


def digest(data: bytes) -> bytes:
    """The checksum of copies: BLAKE2b with 32 bytes (spec/copies.md, CPY-4)."""
    return hashlib.blake2b(data, digest_size=32).digest()


def copy_objects(
    source: Store, target: Store, wanted: Iterable[Wanted], present: Collection[str]
) -> Generator[Copied, None, None]:
    """Copy objects, a few at a time, and yield each once it is whole and durable in the target, in order.

    Parameters
    ----------
    present
        Paths known to be taken in the target; those objects are compared, not written. One that is taken without
        being known costs more, nothing else.

    Raises
    ------
    CorruptionError
        An object has another size or checksum than recorded, or the target holds another one under its path.
    """
    return in_order(lambda one: _copied(source, target, one, one.path in present), wanted, _AT_ONCE)


def _copied(source: Store, target: Store, one: Wanted, present: bool) -> Copied:
    name = name_of(source, one.source)
    size = source.size(one.source)
    if one.size is not None and size != one.size:
        raise CorruptionError(f"{name!r} has {size} bytes, not the {one.size} recorded for it")
    found = None if present else _written(source, target, one, size)
    written = found is not None
    if found is None:
        found = _read(source, one.source, size)
    if one.digest is not None and found != one.digest:
        raise CorruptionError(
            f"{name!r} is not what was copied there (its checksum differs)",
            fix="take another version, or mend the object from another copy",
        )
    if target.size(one.path) != size or _read(target, one.path, size) != found:
        raise CorruptionError(
            f"{target.uri} holds another object as {one.path!r} than {source.uri} has as {name!r}",
            fix="give the copy an empty place, or remove that object",
        )
    return Copied(one.path, size, found, written)


def _written(source: Store, target: Store, one: Wanted, size: int) -> bytes | None:
    """Write the object and return its checksum; None where its path is taken."""
    sums = hashlib.blake2b(digest_size=32)
    try:
        with target.open_writer(one.path) as writer:
            for data in _chunks(source, one.source, size):
                sums.update(data)
                writer.write(data)
    except AlreadyExistsError:
        return None
    return sums.digest()


def _read(store: Store, path: str, size: int) -> bytes:
    sums = hashlib.blake2b(digest_size=32)
    for data in _chunks(store, path, size):
        sums.update(data)
    return sums.digest()


def _chunks(store: Store, path: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size - start)
        (data,) = store.get_ranges([ByteRange(path, start, length)])
        if len(data) != length:  # what was cut short must not become a whole object elsewhere
            raise CorruptionError(f"{store.uri} gave {len(data)} bytes of {path!r} instead of {length}")
        yield data


def reported(
    copied: Iterable[Copied], progress: Callable[[str, int, int], None] | None, stage: str, total: int
) -> Iterator[Copied]:
    """Pass copies through and tell how many bytes are done."""
    done = 0
    for one in copied:
        done += one.size
        if progress is not None:
            progress(stage, done, max(total, done))
        yield one
