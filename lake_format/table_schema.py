"""The side of a table that changes its columns: add, drop, rename, reorder, alter.

What needs no values is metadata only, whatever the size of the table. Values of a new column are computed and
written by the engine, as one new column group per fragment (spec/evolution.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Self

import pyarrow as pa

from lake_format.column_checks import Forbidden, null_checks, type_checks
from lake_format.column_defaults import declarable, with_type
from lake_format.computed_columns import StoredExpression, computed_names
from lake_format.engine import Progress
from lake_format.errors import InvalidInputError, UnsupportedError
from lake_format.expressions import SqlExpression
from lake_format.filling import AddFilledColumn, Backfill, FillRequest, fields_read, fill_plan
from lake_format.keys import keeps_key_hash, key_field_ids
from lake_format.operation_record import OperationRecord
from lake_format.schema import check_column_type, check_names, child_fields, field_id, with_child_fields
from lake_format.schema_changes import (
    AddColumn,
    AlterColumn,
    DropColumn,
    RenameColumn,
    ReorderColumns,
    check_schema,
    claim,
)
from lake_format.schema_edit import (
    FieldPath,
    Place,
    add_field,
    edit_field,
    ids_within,
    numbered,
    resolve,
    split,
    with_metadata,
)
from lake_format.snapshot import Snapshot
from lake_format.table_core import TableCore
from lake_format.transaction import REFUSALS

__all__ = ["TableSchema"]

_COMMENT = b"comment"
_OWN_KEYS = (b"PARQUET:", b"ARROW:", b"lake.")


class TableSchema(TableCore):
    """Changes to columns; each is one commit, and older versions keep their schema."""

    def add_column(
        self,
        path: FieldPath,
        type: pa.DataType | pa.Field | None = None,  # noqa: A002 - pyarrow's name for it
        values: object | None = None,
        *,
        nullable: bool = True,
        comment: str | None = None,
        properties: Mapping[str, str | None] | None = None,
        inputs: Sequence[str] | None = None,
        on: str | None = None,
        computed: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Add a column: of NULLs or of a constant without touching a file, or values as one new file per fragment.

        Parameters
        ----------
        path
            The column's name, or ``"a.b"`` for a new member of struct ``a``. Values of a member are written along
            with the whole column it lies in; where the struct is NULL it stays so.
        type
            Its type; may be left out where the values tell. A ``pyarrow.Field`` brings nullability and metadata.
        values
            A constant, which is declared as what all rows have that are there (later rows do not get it by
            themselves) unless it is nested, a dictionary or long; ``lake.sql("price * 2")``; a
            ``pyarrow.compute.Expression``; a function that is given record batches and returns an array of as
            many values; or Arrow data with a column of the new column's name (or one column besides the key)
            to be joined by row id or key. None is NULL.
        nullable
            False forbids NULL from now on; it needs values, unless the table is empty.
        comment, properties
            Kept with the column, see :meth:`alter_column`.
        inputs
            The columns a function reads; naming them saves reading the others, and conflicts over them.
        on
            The key column by which Arrow data is joined; without it ``_row_id``.
        computed
            ``values``, which must be ``lake.sql(…)``, stays with the column: rows that are appended, and rows whose
            inputs change, get theirs too, whoever writes them; nobody can set it to anything else.
        progress
            Called with ``("fill", rows done, rows in all)``.

        Raises
        ------
        InvalidInputError
            The name is taken, the type cannot be held or told, or a value does not fit.
        NotFoundError
            Data to join names a row id that no live row has.
        ConflictError
            Somebody took the name or removed a column that is read, at the same time.
        """
        self._require_writable()
        values = self._engine.gather_values(values)
        names, parent = self._new_place(path)
        field = self._new_field(names[-1], type, values, nullable, on)
        field = with_metadata(field, _metadata(comment, properties))
        if parent is not None:
            _check_member(parent, names, field, values, computed=computed)
        version = self._snapshot.version
        planned, _ = numbered(field, version.next_field_id)
        parent_id = None if parent is None else parent.field_id
        self._planned(lambda schema: add_field(schema, planned, parent_id))
        if computed:
            return self._add_filled(
                planned, self._expression(planned, values, inputs, on), None, None, progress
            )
        plain = values is not None and inputs is None and on is None and parent is None
        default = self._engine.constant(planned, values) if plain else None
        if default is not None and not declarable(default):
            default = None
        if values is not None and default is None and version.row_count:
            return self._add_filled(planned, values, inputs, on, progress, parent)
        self._add_unwritten(planned, parent_id, ".".join(names), default)
        return self

    def drop_column(self, path: FieldPath) -> Self:
        """Remove a column, or a member of a struct, and the indexes over it. No file is touched.

        Raises
        ------
        InvalidInputError
            There is no such column, or it is the last one (of its struct).
        ConflictError
            Somebody changed or indexed the column at the same time.
        """
        place = self._place(path)
        self._refuse_element(place, "dropped")
        self._refuse_key(place, "dropped")
        self._planned(lambda schema: edit_field(schema, place.field_id, lambda _: None))
        record = OperationRecord(kind="drop_column", fields_written=ids_within(place.field))
        change = DropColumn(
            record=record,
            summary={"column": str(place)},
            field_id=place.field_id,
            nested=bool(place.parents),
        )
        self._commit(change)
        return self

    def rename_column(self, path: FieldPath, name: str) -> Self:
        """Give a column, or a member of a struct (``"a.b"``), another name. Data, indexes and its id stay.

        Parameters
        ----------
        name
            The last name of the path alone: ``rename_column("address.zip", "postcode")``.

        Raises
        ------
        InvalidInputError
            There is no such column, or the new name is taken or reserved.
        """
        place = self._place(path)
        self._refuse_element(place, "renamed")
        if not isinstance(name, str):
            raise InvalidInputError(f"a column's name is text, not {name!r}")
        check_names([name], "the schema")
        self._planned(lambda schema: edit_field(schema, place.field_id, lambda one: one.with_name(name)))
        parent = _parent_id(place)
        record = OperationRecord(
            kind="rename_column",
            fields_written=frozenset({place.field_id}),
            claims=frozenset({claim(name, parent)}),
        )
        summary = {"column": str(place), "renamed_to": name}
        self._commit(RenameColumn(record=record, summary=summary, field_id=place.field_id, name=name))
        return self

    def reorder_columns(self, first: Sequence[str], *, within: FieldPath | None = None) -> Self:
        """Put columns in another order: those named come first, in that order; the others follow as they were.

        Parameters
        ----------
        within
            A struct whose members are meant, instead of the table's columns.
        """
        self._require_writable()
        schema = self._snapshot.schema
        outer = None if within is None else self._place(within)
        if outer is not None and not pa.types.is_struct(outer.field.type):
            raise InvalidInputError(f"column {str(outer)!r} is no struct, so it has no members to order")
        members = pa.schema(list(schema) if outer is None else child_fields(outer.field.type))
        if isinstance(first, str) or len(set(first)) != len(list(first)):
            raise InvalidInputError(f"columns must be a list of different names, not {first!r}")
        change = ReorderColumns(
            record=OperationRecord(kind="alter_column"),
            summary={"first": ", ".join(first)},
            first=tuple(resolve(members, (name,)).field_id for name in first),
            parent=None if outer is None else outer.field_id,
        )
        self._commit(change)
        return self

    def widen_column(self, path: FieldPath, type: pa.DataType) -> Self:  # noqa: A002 - pyarrow's name for it
        """Give a column a wider type; see :meth:`alter_column`."""
        return self.alter_column(path, type=type)

    def alter_column(
        self,
        path: FieldPath,
        *,
        type: pa.DataType | None = None,  # noqa: A002 - pyarrow's name for it
        nullable: bool | None = None,
        comment: str | None = None,
        properties: Mapping[str, str | None] | None = None,
    ) -> Self:
        """Widen a type, change whether NULL is allowed, or set comment and properties. No file is touched.

        Parameters
        ----------
        path
            A column, a member of a struct, or the element of a list (``"tags.item"``).
        type
            A type that holds every value of the present one: wider integers, floats and decimals, finer units,
            dates as timestamps, large strings and lists, wider dictionary codes.
        nullable
            True is always possible; False only while no row has NULL there, now and in what others are
            writing at the same time.
        comment
            Text for people; "" removes it.
        properties
            Free text by name, kept with the column; None removes one.

        Raises
        ------
        InvalidInputError
            Not a widening, a NULL in a column that should forbid it, or a value the new type cannot hold.
        ConflictError
            Somebody changed the column at the same time, or wrote rows that do not fit.
        """
        place = self._place(path)
        if all(one is None for one in (type, nullable, comment, properties)):
            raise InvalidInputError(
                f"nothing of column {str(place)!r} is to be altered",
                fix="give type=, nullable=, comment= or properties=",
            )
        if nullable:
            self._refuse_key(place, "made nullable")
        if type is not None and not keeps_key_hash(place.field.type, type):
            self._refuse_key(place, f"made {type}, as its values would count as other keys")
        metadata = _metadata(comment, properties)
        checks = type_checks(place, type) if type is not None else []
        if nullable is False and place.field.nullable:
            checks += null_checks(place)

        def edit(field: pa.Field) -> pa.Field:
            if type is not None:
                field = _retyped(field, type)
            if nullable is not None:
                field = field.with_nullable(bool(nullable))
            return with_metadata(field, metadata) if metadata else field

        edited = self._planned(lambda schema: edit_field(schema, place.field_id, edit))
        for column in edited:
            check_column_type(column)
        if computed_names(edited):
            self._require_evaluable(edited)
        self._look(self._snapshot, checks)
        written = ids_within(place.field) if type is not None else {place.field_id}
        record = OperationRecord(
            kind="alter_column",
            fields_written=frozenset(written),
            fields_required=frozenset({place.field_id, _column_id(place)} if checks else ()),
        )
        change = AlterColumn(
            record=record,
            summary={"column": str(place)},
            field_id=place.field_id,
            edit=edit,
            check=partial(self._look, checks=checks) if checks else None,
            evaluable=self._require_evaluable,
            features=frozenset({"evolved-types"} if type is not None else ()),
        )
        self._commit(change)
        return self

    # --- inside -------------------------------------------------------------------------------------------

    def _new_place(self, path: FieldPath) -> tuple[tuple[str, ...], Place | None]:
        """Names of a column to be added, and the struct it becomes a member of."""
        schema = self._snapshot.schema
        if isinstance(path, str) and schema.get_field_index(path) >= 0:
            raise InvalidInputError(f"there is a column {path!r} already", fix="choose another name")
        names = split(path)
        if len(names) == 1:
            return names, None
        parent = resolve(schema, names[:-1])
        if not pa.types.is_struct(parent.field.type):
            raise InvalidInputError(
                f"column {str(parent)!r} is {parent.field.type}, so it cannot get a member {names[-1]!r}"
            )
        return names, parent

    def _new_field(
        self, name: str, given: pa.DataType | pa.Field | None, values: object, nullable: bool, on: str | None
    ) -> pa.Field:
        if given is None:
            if values is None:
                raise InvalidInputError(
                    f"the type of column {name!r} is missing", fix="give it, such as pa.int64()"
                )
            given = self._engine.infer_type(self._snapshot, name, values, on)
        if isinstance(given, pa.Field):
            field = given.with_name(name)
            field = field if nullable else field.with_nullable(False)
        elif isinstance(given, pa.DataType):
            field = pa.field(name, given, bool(nullable))
        else:
            raise InvalidInputError(f"a type must be a pyarrow.DataType or Field, not {given!r}")
        if not field.nullable and values is None and self._snapshot.version.row_count:
            raise InvalidInputError(
                f"column {name!r} would be NULL in {self._snapshot.version.row_count:,} rows",
                fix="give values, or make it nullable",
            )
        return field

    def _expression(
        self, planned: pa.Field, values: object, inputs: Sequence[str] | None, on: str | None
    ) -> StoredExpression:
        if not isinstance(values, SqlExpression) or inputs is not None or on is not None:
            raise InvalidInputError(
                f"column {planned.name!r} can only be computed by SQL over other columns",
                fix='write values=lake.sql("price * 2"), computed=True',
            )
        return self._engine.declare_expression(self._snapshot.schema, planned, values.text)

    def _add_unwritten(
        self, planned: pa.Field, parent: int | None, name: str, default: pa.Array | None
    ) -> None:
        required = not planned.nullable and default is None
        column = {field_id(planned) if parent is None else parent}
        record = OperationRecord(
            kind="add_column",
            fields_read=frozenset(() if parent is None else (parent,)),
            fields_required=frozenset({field_id(planned)} | column if required else ()),
            claims=frozenset({claim(planned.name, parent)}),
        )
        change = AddColumn(
            record=record, summary={"column": name}, column=planned, parent=parent, default=default
        )
        self._commit(change)

    def _add_filled(
        self,
        planned: pa.Field,
        values: object,
        inputs: Sequence[str] | None,
        on: str | None,
        progress: Progress | None,
        parent: Place | None = None,
    ) -> Self:
        above = () if parent is None else (*parent.parents, parent.field)
        request = FillRequest(
            field=planned,
            values=values,
            is_new=True,
            inputs=None if inputs is None else tuple(inputs),
            on=on,
            parents=tuple(map(field_id, above)),
            progress=progress,
            new_id=self._around.new_id,
        )
        edits = self._engine.fill_column(self._snapshot, request)
        read = fields_read(self._engine, self._snapshot, request)
        plan = fill_plan(self._snapshot, request, edits, read)
        self._commit_filled(AddFilledColumn(self._engine, request, plan))
        return self

    def _commit_filled(self, change: Backfill) -> None:
        try:
            self._commit(change)
        except REFUSALS:
            change.discard()
            raise

    def _place(self, path: FieldPath) -> Place:
        self._require_writable()
        return resolve(self._snapshot.schema, path)

    def _refuse_element(self, place: Place, what: str) -> None:
        if place.parents and not pa.types.is_struct(place.parents[-1].type):
            raise InvalidInputError(
                f"{str(place)!r} is what column {place.names[0]!r} is made of, and cannot be {what}",
                fix="name a column or a member of a struct",
            )

    def _refuse_key(self, place: Place, what: str) -> None:
        if place.field_id in key_field_ids(self._snapshot.version.properties):
            raise InvalidInputError(f"column {str(place)!r} is part of the table's key and cannot be {what}")

    def _planned(self, change: Callable[[pa.Schema], pa.Schema]) -> pa.Schema:
        """The schema after a change: raises what is wrong with it before anything is committed."""
        schema = change(self._snapshot.schema)
        check_schema(self._snapshot.version, schema)
        return schema

    def _require_evaluable(self, schema: pa.Schema) -> None:
        self._engine.check_expressions(schema)

    def _look(self, snapshot: Snapshot, checks: Sequence[Forbidden]) -> None:
        for check in checks:
            found = self._engine.count(snapshot, check.rows)
            if found:
                raise InvalidInputError(f"{check.what} in {found:,} rows", fix=check.fix)


def _check_member(
    parent: Place, names: Sequence[str], field: pa.Field, values: object, *, computed: bool
) -> None:
    """Raise UnsupportedError for what a member of a struct cannot be given when it is added."""
    name = ".".join(names)
    if computed:
        raise UnsupportedError(
            f"{name!r} is a member of a struct, and only whole columns are computed", fix="add a column"
        )
    if values is None:
        return
    if any(not pa.types.is_struct(one.type) for one in parent.parents):
        raise UnsupportedError(
            f"{name!r} lies in a list, so that a row may have many of it, and cannot be added with values",
            fix="add it, then update() the column",
        )
    if not field.nullable:
        raise UnsupportedError(
            f"{name!r} is a member of a struct that forbids NULL, and cannot be added so with values",
            fix="add it without, then alter_column(nullable=False)",
        )


def _parent_id(place: Place) -> int | None:
    return field_id(place.parents[-1]) if place.parents else None


def _column_id(place: Place) -> int:
    return field_id((*place.parents, place.field)[0])


def _retyped(field: pa.Field, target: pa.DataType) -> pa.Field:
    """The field with a wider type; what lies inside keeps its ids."""
    children = child_fields(field.type)
    if not children:
        return with_type(field, target)
    if pa.types.is_fixed_size_list(target):
        children = [children[0].with_type(target.value_type)]
    return field.with_type(with_child_fields(target, children))


def _metadata(comment: str | None, properties: Mapping[str, str | None] | None) -> dict[bytes, bytes | None]:
    """Changes to a field's metadata, checked."""
    changes: dict[bytes, bytes | None] = {}
    if comment is not None:
        changes[_COMMENT] = str(comment).encode() or None
    for name, value in (properties or {}).items():
        key = str(name).encode()
        if not key or key == _COMMENT or key.startswith(_OWN_KEYS):
            raise InvalidInputError(
                f"a column property cannot be named {name!r}", fix="use a name of your own"
            )
        changes[key] = None if value is None else str(value).encode()
    return changes
