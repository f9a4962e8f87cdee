"""``lake create``: a new, empty table from a schema text or in the likeness of a file."""

from __future__ import annotations

import click
import pyarrow as pa
import pyarrow.compute as pc

import lake_format as lake
from lake_connectors.cli.command import Command
from lake_connectors.cli.decode import parsed_json_column
from lake_connectors.cli.inputs import INPUT_FORMATS, find_inputs
from lake_connectors.cli.options import key_values, storage_option
from lake_connectors.cli.output import print_facts
from lake_connectors.cli.schema_text import parse_schema, type_text
from lake_format.errors import InvalidInputError

__all__ = ["create"]


@click.command(
    cls=Command,
    examples=[
        'lake create items --schema "id int64, title string, vec vector(128)"',
        "lake create items --like rows.parquet",
        "lake create s3://bucket/items --like rows.jsonl --option region=eu-central-1",
        "lake create items --like rows.csv --property write.scalar-format=parquet",
        'lake create orders --schema "price float64, amount int32, total float64" --computed "total=price * amount"',
        'lake create events --like rows.parquet --partition-by "day(ts)" --partition-by "bucket(16, user_id)"',
    ],
)
@click.argument("uri")
@click.option(
    "--schema", metavar="TEXT", help='Columns, e.g. "id int64 not null, title string, vec vector(128)".'
)
@click.option("--like", metavar="FILE", help="Take the columns from a Parquet, CSV, JSON or Arrow file.")
@click.option(
    "--input-format", type=click.Choice(INPUT_FORMATS), help="Where the name of FILE does not tell it."
)
@click.option(
    "--property", "properties", multiple=True, metavar="KEY=VALUE", help="A table property; may be repeated."
)
@click.option(
    "--partition-by",
    multiple=True,
    metavar="FIELD",
    help='A column or transform to part rows by, e.g. "day(ts)"; may be repeated.',
)
@click.option(
    "--cluster-by",
    multiple=True,
    metavar="COLUMN",
    help="A column to put rows in order by when they are written; may be repeated.",
)
@click.option(
    "--layout",
    type=click.Choice(["split", "open"]),
    help="open: each fragment one plain Parquet file, vectors included, that any engine reads.",
)
@click.option(
    "--computed",
    multiple=True,
    metavar="COLUMN=SQL",
    help='A column that is computed from others, e.g. "total=price * amount"; may be repeated.',
)
@storage_option
def create(
    *,
    uri: str,
    schema: str | None,
    like: str | None,
    input_format: str | None,
    properties: tuple[str, ...],
    partition_by: tuple[str, ...],
    cluster_by: tuple[str, ...],
    layout: str | None,
    computed: tuple[str, ...],
    storage_options: tuple[str, ...],
) -> None:
    """Make a new, empty table at URI.

    Types: bool, int8 … int64, uint8 … uint64, float16, float32, float64, string, binary, date, time,
    timestamp(us, UTC), duration, decimal(10, 2), binary(16), vector(128), vector(128, float16), list<string>,
    struct<a int64, b string>, map<string, int64>, dictionary<string>.
    """
    if (schema is None) == (like is None):
        raise InvalidInputError("a table needs its columns", fix="give either --schema or --like")
    columns = parse_schema(schema) if schema is not None else _schema_of(str(like), input_format)
    table = lake.create(
        uri,
        columns,
        partition_by=partition_by,
        cluster_by=cluster_by or None,
        layout=layout,
        computed=key_values(computed, "--computed") or None,
        properties=key_values(properties, "--property"),
        storage_options=key_values(storage_options, "--option") or None,
    )
    click.echo(f"created {table.uri}")
    print_facts((f"  {field.name}", type_text(field.type)) for field in table.schema)


def _schema_of(path: str, input_format: str | None) -> pa.Schema:
    """The schema of a file's first block of rows; lists of one constant length become vectors."""
    source = find_inputs([path], input_format)[0]
    first = next(source.batches(None), None)
    if first is None or first.num_columns == 0:
        raise InvalidInputError(
            f"{source.name} has no rows to take columns from", fix="give --schema instead"
        )
    return pa.schema(
        [_column_like(first.schema.field(index), first.column(index)) for index in range(len(first.schema))]
    )


def _column_like(field: pa.Field, column: pa.Array) -> pa.Field:
    data_type = _vector_type(column) or field.type
    if pa.types.is_null(data_type):
        raise InvalidInputError(
            f"column {field.name!r} has only NULLs at the file's start, so its type is unknown",
            fix="give --schema",
        )
    return pa.field(field.name, data_type, field.nullable)


def _vector_type(column: pa.Array) -> pa.DataType | None:
    """A vector type if the column's lists of floats all have one length, else None.

    CSV cells hold vectors as JSON text; only cells that look like a list of numbers count.
    """
    if pa.types.is_string(column.type):
        column = _lists_in_texts(column) or column
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    sized = pa.types.is_fixed_size_list(column.type)
    if not (lists or sized) or not pa.types.is_floating(column.type.value_type):
        return None
    lengths = pc.unique(pc.drop_null(pc.list_value_length(column)))
    if len(lengths) != 1 or lengths[0].as_py() == 0:
        return None
    half = column.type.value_type == pa.float16()
    return pa.list_(pa.float16() if half else pa.float32(), lengths[0].as_py())


def _lists_in_texts(column: pa.Array) -> pa.Array | None:
    texts = pc.drop_null(column)
    if len(texts) == 0 or not pc.all(pc.match_substring_regex(texts, r"^\s*\[[-+0-9.eE,\s]*\]\s*$")).as_py():
        return None
    return parsed_json_column(texts, pa.list_(pa.float64()), "")
