"""What it costs to give rows of a fragment new values, and which way is cheapest. Pure arithmetic on estimates.

Counted in bytes read and written; a file more counts as so many bytes as would take about as long.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lake_format.model import Fragment
from lake_format.schema import field_id, is_vector

__all__ = ["Cost", "compare", "row_bytes"]

_FILE_BYTES = 256 << 10
"""A file written costs a request or two and their durability besides its bytes."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated bytes of both ways; ``strategy`` is the cheaper one."""

    rewrite: int
    move: int

    @property
    def strategy(self) -> str:
        """``rewrite`` (new column files for the whole fragment) or ``move`` (changed rows into a new fragment)."""
        return "rewrite" if self.rewrite <= self.move else "move"


def compare(fragment: Fragment, schema: pa.Schema, columns: tuple[str, ...], rows: int) -> Cost:
    """What new values of ``columns`` in ``rows`` rows of a fragment cost either way."""
    changed = sum(_column_bytes(fragment, schema.field(name)) for name in columns)
    files = len({is_vector(schema.field(name).type) and name for name in columns})
    whole = row_bytes(fragment, schema)
    return Cost(
        rewrite=int(2 * fragment.row_count * changed) + files * _FILE_BYTES,
        move=int(2 * rows * whole),
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
    return 8.0
