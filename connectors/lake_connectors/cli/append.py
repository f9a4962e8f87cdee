"""``lake append``: the rows of files, all of them in one commit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import click
import pyarrow as pa

from lake_connectors.cli.command import Command
from lake_connectors.cli.inputs import INPUT_FORMATS, Input, find_inputs
from lake_connectors.cli.options import open_options, open_table
from lake_connectors.cli.progress import Progress

__all__ = ["append"]


@click.command(
    cls=Command,
    examples=[
        "lake append items part-1.parquet part-2.parquet",
        "lake append items rows.csv.gz",
        "zcat rows.gz | lake append items - --input-format json",
    ],
)
@click.argument("uri")
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--input-format",
    type=click.Choice(INPUT_FORMATS),
    help="What the files are, where their names do not tell; needed for standard input.",
)
@open_options
def append(
    *, uri: str, files: tuple[str, ...], input_format: str | None, storage_options: tuple[str, ...]
) -> None:
    """Add the rows of one or more files to the table at URI, in one commit: all of them, or on an error none.

    Formats: Parquet, CSV and TSV (with a header line), JSON (one object a line, or one array of objects), Arrow
    (file or stream); CSV and JSON also compressed (.gz, .bz2, .zst). FILE may be - for standard input. Columns are
    matched by name. In CSV and JSON, bytes are base64; in CSV, vectors and lists are JSON such as "[0.1, 0.2]".
    Files are streamed, so they may be larger than memory.
    """
    inputs = find_inputs(files, input_format)
    table = open_table(uri, None, storage_options)
    before = table.count()
    started = time.monotonic()
    with Progress(total=_total(inputs)) as progress:
        table.append(_rows(inputs, table.schema), progress=progress)
    added = table.count() - before
    click.echo(
        f"appended {added:,} rows in {time.monotonic() - started:.1f} s: "
        f"version {table.version}, {table.count():,} rows in all"
    )


def _rows(inputs: Sequence[Input], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for source in inputs:
        yield from source.batches(schema)


def _total(inputs: Sequence[Input]) -> int:
    counts = [source.row_count() for source in inputs]
    return sum(count for count in counts if count is not None) if None not in counts else 0
