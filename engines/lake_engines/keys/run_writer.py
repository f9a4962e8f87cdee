"""Writes a run of the key index front to back, from hashes that ascend; gathers the hashes of rows being written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_engines.keys.bloom import block_count, build_filter
from lake_engines.keys.layout import FILTER_BLOB, HEAD_BLOB, PAGES_BLOB, RunHead, page_entries
from lake_format.checksum import crc32
from lake_format.key_index import NewKeyRun
from lake_format.keys import hash_keys
from lake_format.paths import key_run_path
from lake_format.puffin import PuffinWriter
from lake_format.row_ids import U64
from lake_format.store.base import Store

__all__ = ["KeyCollector", "write_run"]

_INLINE = 256
"""A run of so many rows lies in the version object: cheaper than an object of its own, until it is merged."""
_RUN_ROWS = 1 << 22
"""Rows of one commit are cut into runs of so many: 48 MiB to sort at a time."""

Part = tuple[U64, npt.NDArray[np.int64]]
"""Hashes that ascend, and the ordinal of each."""


def write_run(
    store: Store,
    parts: Iterable[Part],
    *,
    entries: int,
    rows: int,
    field_ids: Sequence[int],
    new_id: Callable[[], UUID],
) -> NewKeyRun:
    """Write a run; memory is that of a part, and 12 bits an entry for the filter.

    Parameters
    ----------
    parts
        Together at most ``entries`` entries, each part beginning where the one before ended.
    rows
        How many rows the ordinals count.
    """
    path = key_run_path(new_id())
    per_page, blocks = page_entries(entries), block_count(entries)
    bits = np.zeros((blocks, 8), np.uint32)
    fences: list[int] = []
    crcs: list[int] = []
    count = 0
    with store.open_writer(path) as sink:
        puffin = PuffinWriter(sink)
        puffin.begin()
        for hashes, ordinals in _paged(parts, per_page):
            count += len(hashes)
            page = _page(hashes, ordinals, per_page)
            fences.append(int(hashes[0]))
            crcs.append(crc32(page))
            build_filter(hashes, blocks, bits)
            puffin.write(page)
        puffin.end(PAGES_BLOB, fields=field_ids)
        puffin.begin()
        filter_bytes = bits.astype("<u4").tobytes()
        puffin.write(filter_bytes)
        puffin.end(FILTER_BLOB, fields=field_ids)
        head = RunHead(
            per_page,
            blocks,
            count,
            rows,
            crc32(filter_bytes),
            np.array(fences, np.uint64),
            np.array(crcs, np.uint32),
        ).encode()
        offset = puffin.begin()
        puffin.write(head)
        puffin.end(HEAD_BLOB, fields=field_ids)
        puffin.finish()
        size = puffin.position
    return NewKeyRun(
        path=path,
        size=size,
        head_offset=offset,
        head_length=len(head),
        head_crc=crc32(head),
        filter_length=len(filter_bytes),
        entries=count,
        row_count=rows,
    )


def _paged(parts: Iterable[Part], per_page: int) -> Iterator[Part]:
    """The entries page by page, all full but the last."""
    held: list[Part] = []
    rows = 0
    for part in parts:
        held.append(part)
        rows += len(part[0])
        if rows < per_page:
            continue
        hashes, ordinals = (np.concatenate(column) for column in zip(*held, strict=True))
        full = rows - rows % per_page
        for start in range(0, full, per_page):
            yield hashes[start : start + per_page], ordinals[start : start + per_page]
        held, rows = [(hashes[full:], ordinals[full:])], rows - full
    if rows:
        hashes, ordinals = (np.concatenate(column) for column in zip(*held, strict=True))
        yield hashes, ordinals


def _page(hashes: U64, ordinals: npt.NDArray[np.int64], per_page: int) -> bytes:
    missing = per_page - len(hashes)
    padded = np.concatenate([hashes, np.full(missing, ~np.uint64(0))]) if missing else hashes
    numbers = np.concatenate([ordinals, np.full(missing, 0xFFFFFFFF)]) if missing else ordinals
    return padded.astype("<u8").tobytes() + numbers.astype("<u4").tobytes()


class KeyCollector:
    """Takes the key hashes of new rows in the order in which they are written, and writes them as runs in the end.

    Memory: 8 bytes a row, up to some million rows at a time. Each run goes to ``into`` as it is written.
    """

    def __init__(
        self,
        store: Store,
        columns: Sequence[str],
        field_ids: Sequence[int],
        new_id: Callable[[], UUID],
        into: list[NewKeyRun],
    ) -> None:
        self.runs = into
        self._store = store
        self._columns = columns
        self._field_ids = field_ids
        self._new_id = new_id
        self._held: list[U64] = []
        self._rows = 0

    def take(self, batch: pa.RecordBatch) -> None:
        """Keep the hashes of the keys of rows that were written."""
        self._held.append(hash_keys([batch.column(name) for name in self._columns]))
        self._rows += batch.num_rows
        if self._rows >= _RUN_ROWS:
            self._write()

    def finish(self) -> None:
        """Write what is left."""
        if self._rows:
            self._write()

    def _write(self) -> None:
        hashes = np.concatenate(self._held)
        self._held, self._rows = [], 0
        if len(hashes) <= _INLINE and not self.runs:
            inline = hashes.astype("<u8").tobytes()
            self.runs.append(NewKeyRun(entries=len(hashes), row_count=len(hashes), hashes=inline))
            return
        order = np.argsort(hashes)
        self.runs.append(
            write_run(
                self._store,
                [(hashes[order], order)],
                entries=len(hashes),
                rows=len(hashes),
                field_ids=self._field_ids,
                new_id=self._new_id,
            )
        )
