"""The open layout: each fragment one Parquet file that any engine reads as it is, and what keeps one from being so.

Pure; it looks at manifests and schemas, never at files (spec/files.md, OPN clauses).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lake_format.column_defaults import default_of
from lake_format.model import ColumnGroup, Fragment, Version
from lake_format.properties import text_property
from lake_format.schema import child_fields, field_by_id, field_id
from lake_format.snapshot import Snapshot

__all__ = ["OpenLayout", "is_open", "not_open"]


def is_open(properties: Mapping[str, str]) -> bool:
    """Whether a table writes its fragments in the open layout."""
    return text_property(properties, "write.layout") == "open"


def not_open(snapshot: Snapshot) -> npt.NDArray[np.bool_] | None:
    """The fragments that compaction writes anew so that they are in the open layout; None for other tables."""
    if not is_open(snapshot.version.properties):
        return None
    layout = OpenLayout(snapshot.version)
    fragments = snapshot.fragments.fragments()
    return np.array([layout.obstacle(fragment) is not None for fragment in fragments], bool)


class OpenLayout:
    """Tells, for one version, which fragments anybody can read by their file alone."""

    def __init__(self, version: Version) -> None:
        self._version = version
        self._known: dict[tuple[int, tuple[int, ...]], str | None] = {}

    def obstacle(self, fragment: Fragment) -> str | None:
        """Why the fragment's rows cannot be read from one file by who knows field ids alone; None if they can."""
        if fragment.patches:
            return "has patches over its files"
        if len(fragment.groups) != 1:
            return f"lies in {len(fragment.groups)} files"
        (group,) = fragment.groups
        if group.format != "parquet":
            return f"lies in a file of format {group.format!r}"
        if not group.layout:
            return "lies in a file that another program wrote"
        if group.superseded:
            return "has values in its file that count no more"
        key = (group.schema_id, group.field_ids)
        if key not in self._known:
            self._known[key] = self._of_columns(group)
        return self._known[key]

    def _of_columns(self, group: ColumnGroup) -> str | None:
        written = self._version.schemas[group.schema_id]
        for field in self._version.schema:
            identity = field_id(field)
            if identity not in group.field_ids:
                if default_of(field) is not None or not field.nullable:
                    return f"has no values of column {field.name!r} in its file, where others see a NULL"
                continue
            found = field_by_id(written, identity)
            if found is None or not _same(found, field):
                kind = "nothing known" if found is None else found.type
                return f"holds column {field.name!r} as {kind}, not as {field.type}"
        return None


def _same(written: pa.Field, current: pa.Field) -> bool:
    """Whether a reader that is told the present type gets the same values out of what was written with another."""
    before, now = _stored(written.type), _stored(current.type)
    if before == now:
        return True
    if pa.types.is_nested(before) and pa.types.is_nested(now):
        known = {field_id(child): child for child in child_fields(before)}
        return _kind(before) == _kind(now) and all(
            _same(known[field_id(child)], child) if field_id(child) in known else child.nullable
            for child in child_fields(now)
        )
    is_ = pa.types
    if is_.is_signed_integer(before) and is_.is_signed_integer(now):
        return bool(now.bit_width >= before.bit_width)
    if is_.is_float32(before) and is_.is_float64(now):
        return True
    if is_.is_decimal(before) and is_.is_decimal(now):
        return bool(before.scale == now.scale and now.precision >= before.precision)
    if is_.is_timestamp(before) and is_.is_timestamp(now):
        return (before.tz is None) == (now.tz is None)
    return False


def _stored(data_type: pa.DataType) -> pa.DataType:
    """The type without what makes no difference in a Parquet file."""
    is_ = pa.types
    if is_.is_dictionary(data_type):
        return _stored(data_type.value_type)
    if is_.is_large_string(data_type) or is_.is_string_view(data_type):
        return pa.string()
    if is_.is_large_binary(data_type) or is_.is_binary_view(data_type):
        return pa.binary()
    return data_type


def _kind(data_type: pa.DataType) -> str:
    is_ = pa.types
    return "struct" if is_.is_struct(data_type) else "map" if is_.is_map(data_type) else "list"
