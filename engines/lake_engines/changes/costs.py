"""What it costs to give rows of a fragment new values, and which way is cheapest. Pure arithmetic on estimates.

Counted in bytes read and written; a file more counts as so many bytes as would take about as long. Patches and moves
of all fragments share their files, so no fragment is charged for those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from lake_format.column_defaults import default_of, default_values
from lake_format.model import Fragment
from lake_format.patching import may_patch
from lake_format.schema import field_id, is_vector

__all__ = ["Cost", "Strategy", "compare", "row_bytes"]

_FILE_BYTES = 256 << 10
"""A file written costs a request or two and their durability besides its bytes."""


_PATCH_BYTES = 2 << 10
"""A patch costs an entry of the fragment, and later reads of it a request each."""
_LATER_READS = 4
"""So many times a patch is thought to be read, besides what it lies over, until the fragment is written anew."""
_MOVED_ROW_BYTES = 64
"""A moved row costs its deletion, its place in a row-id sequence, and a run in the map of row ids."""

Strategy = Literal["rewrite", "patch", "move"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated bytes of each way; None for one that is not open.

    ``rewrite`` writes new column files for the whole fragment, ``patch`` lays the changed values over it, ``move``
    writes the changed rows into a new fragment.
    """

    rewrite: int
    patch: int | None
    move: int

    @property
    def strategy(self) -> Strategy:
        """The cheapest way."""
        if self.patch is not None and self.patch < min(self.rewrite, self.move):
            return "patch"
        return "rewrite" if self.rewrite <= self.move else "move"

    def of(self, strategy: Strategy) -> int:
        """What one way costs."""
        return {"rewrite": self.rewrite, "patch": self.patch or 0, "move": self.move}[strategy]


def compare(fragment: Fragment, schema: pa.Schema, columns: tuple[str, ...], rows: int) -> Cost:
    """What new values of ``columns`` in ``rows`` rows of a fragment cost each way."""
    changed = sum(_column_bytes(fragment, schema.field(name)) for name in columns)
    files = len({is_vector(schema.field(name).type) and name for name in columns})
    whole = row_bytes(fragment, schema)
    identities = frozenset(field_id(schema.field(name)) for name in columns)
    patch = int(rows * (2 * changed + _LATER_READS * (changed + 2))) + files * _PATCH_BYTES
    return Cost(
        rewrite=int(2 * fragment.row_count * changed) + files * _FILE_BYTES,
        patch=patch if may_patch(fragment, identities, rows) else None,
        move=int(rows * (2 * whole + _MOVED_ROW_BYTES)),
    )


def row_bytes(fragment: Fragment, schema: pa.Schema) -> float:
    """Bytes a row of the fragment takes, all columns of the schema together."""
    return sum(_column_bytes(fragment, field) for field in schema)


def _column_bytes(fragment: Fragment, field: pa.Field) -> float:
    """Bytes a value takes: by its type where that tells, else an even share of the file it lies in."""
    if is_vector(field.type):
        return float(field.type.list_size * field.type.value_type.bit_width) / 8
    try:
        return max(float(field.type.bit_width) / 8, 0.125)
    except ValueError:  # of no fixed width
        pass
    identity = field_id(field)
    for group in fragment.groups:
        if identity in group.live_field_ids:
            return group.size / fragment.row_count / len(group.field_ids)
    for patch in fragment.patches:
        if identity in patch.file.live_field_ids:
            return patch.file.size / patch.file_rows / len(patch.file.field_ids)
    return 8.0 if default_of(field) is None else float(default_values(field, 1).nbytes)
