"""Columns that follow those of another table: three schemas, judged column by column, by field id."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lake_format as lake
from lake_format.column_defaults import with_default
from lake_format.schema import FIELD_ID_KEY, field_id
from lake_format.schema_following import evolves_types, followed, following_records


def column(number: int, name: str, kind: pa.DataType | None = None, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind or pa.int32(), nullable, {FIELD_ID_KEY: str(number).encode()})


def columns(*fields: pa.Field) -> pa.Schema:
    return pa.schema(fields)


A, B, C = column(1, "a"), column(2, "b"), column(3, "c")
BASE = columns(A, B, C)


def names(schema: pa.Schema) -> list[str]:
    return list(schema.names)


def kinds(before: pa.Schema, after: pa.Schema) -> list[str]:
    return [one.kind for one in following_records(before, after)]


def test_what_one_side_did_is_kept() -> None:
    own = column(900, "own")
    added = column(4, "d")
    assert names(followed(BASE, BASE, BASE)) == ["a", "b", "c"]
    assert names(followed(BASE, columns(A, B, C, added), columns(A, own, B, C))) == [
        "a",
        "own",
        "b",
        "c",
        "d",
    ]
    assert names(followed(BASE, columns(C, A, B), columns(A, B, own, C))) == ["c", "a", "b", "own"]
    assert names(followed(BASE, columns(C, A, B), columns(B, A, C))) == ["b", "a", "c"]
    assert names(followed(BASE, columns(added, A, B, C), BASE)) == ["d", "a", "b", "c"]
    assert names(followed(BASE, columns(A, C), BASE)) == ["a", "c"]
    assert names(followed(BASE, columns(A, B.with_name("x"), C), columns(A, C))) == ["a", "c"]
    wide = columns(A, B.with_type(pa.int64()), C)
    assert followed(BASE, wide, columns(A, B.with_name("x"), C)).field("x").type == pa.int64()
    assert followed(BASE, BASE, wide).field("b").type == pa.int64()


def test_columns_never_become_stricter() -> None:
    strict = columns(column(1, "a", nullable=False), B, C, column(4, "d", nullable=False))
    found = followed(BASE, strict, BASE)
    assert found.field("a").nullable
    assert found.field("d").nullable
    assert followed(strict, BASE, strict).field("a").nullable
    valued = with_default(column(4, "d", nullable=False), pa.array([7], pa.int32()))
    assert not followed(BASE, columns(A, B, C, valued), BASE).field("d").nullable
    with pytest.raises(lake.ConflictError, match="'a' may not be NULL here"):
        followed(BASE, BASE, strict)


def test_members_follow_too() -> None:
    x, y, z = column(11, "x"), column(12, "y"), column(13, "z", pa.string())
    base = columns(column(1, "s", pa.struct([x, y])))
    theirs = columns(column(1, "s", pa.struct([z, x.with_type(pa.int64()).with_name("first")])))
    found = followed(base, theirs, base)
    assert [field_id(one) for one in found.field("s").type] == [13, 11]
    assert evolves_types(base, found)
    assert kinds(base, found) == ["alter_column"]
    (record,) = following_records(base, found)
    assert record.fields_written == {1, 11, 12, 13}
    other = columns(column(1, "s", pa.struct([x, y.with_name("why")])))
    with pytest.raises(lake.ConflictError, match="'s' became struct"):
        followed(base, theirs, other)
    assert followed(base, base, other).field("s").type == other.field("s").type


def test_what_does_not_go_together_is_named() -> None:
    cases = [
        (columns(A, B, C, column(4, "d")), columns(A, B, C, column(4, "own")), "field 4 is 'd' there"),
        (columns(A, B, C, column(4, "D")), columns(A, B, C, column(900, "d")), "'d' and 'D'|'D' and 'd'"),
        (columns(A, B.with_name("x"), C), columns(A, B.with_name("y"), C), "'y' was renamed to 'x' there"),
        (columns(A, C), columns(A, B.with_name("y"), C), "'y' was dropped there and changed here"),
        (
            columns(A, B.with_type(pa.int64()), C),
            columns(A, B.with_type(pa.float64()), C),
            "'b' became int64",
        ),
    ]
    for theirs, mine, match in cases:
        with pytest.raises(lake.ConflictError, match=match):
            followed(BASE, theirs, mine)
    with pytest.raises(lake.UnsupportedError, match="'b' became string there"):
        followed(BASE, columns(A, B.with_type(pa.string()), C), BASE)
    day = columns(column(1, "day", pa.date32()))
    with pytest.raises(lake.UnsupportedError, match="its values cannot follow"):
        followed(day, columns(column(1, "day", pa.timestamp("ns"))), day)
    with pytest.raises(lake.ConflictError, match="no column would be left"):
        followed(columns(A), columns(), columns(A))


def test_records_say_what_was_done() -> None:
    after = columns(C, B.with_name("x").with_type(pa.int64()), column(4, "d"))
    assert sorted(kinds(BASE, after)) == [
        "add_column",
        "alter_column",
        "alter_column",
        "drop_column",
        "rename_column",
    ]
    assert kinds(BASE, BASE) == []
    assert {name for one in following_records(BASE, after) for name in one.claims} == {"column:x", "column:d"}


@st.composite
def schemas(draw: st.DrawFn, first: int) -> pa.Schema:
    """What some edits make of the base; new columns count from an id of their own."""
    fields = draw(st.permutations(list(BASE)))
    kept = [one for one in fields if draw(st.booleans())]
    kept = [one.with_type(pa.int64()) if draw(st.booleans()) else one for one in kept]
    return columns(*kept, *(column(first + n, f"n{first + n}") for n in range(draw(st.integers(1, 2)))))


@given(schemas(10), schemas(900))
def test_following_loses_nothing_of_either_side(theirs: pa.Schema, mine: pa.Schema) -> None:
    base_ids, here, there = ({field_id(one) for one in schema} for schema in (BASE, mine, theirs))
    clash = [one for one in mine if field_id(one) in base_ids - there and one.type == pa.int64()]
    if clash:
        with pytest.raises(lake.ConflictError, match="was dropped there and changed here"):
            followed(BASE, theirs, mine)
        return
    found = followed(BASE, theirs, mine)
    assert {field_id(one) for one in found} == (here - base_ids) | (there - base_ids) | (
        here & there & base_ids
    )
    assert followed(BASE, BASE, found).equals(found, check_metadata=True)
    assert followed(theirs, theirs, found).equals(found, check_metadata=True)
    for one in found:
        wide = [schema for schema in (theirs, mine) if schema.get_field_index(one.name) >= 0]
        assert one.type == max(
            (schema.field(one.name).type for schema in wide), key=lambda kind: kind.bit_width
        )
