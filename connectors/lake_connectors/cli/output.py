"""Rows on standard output: a table for people, JSON Lines or CSV for machines.

Streams: memory is one batch (JSON, CSV) or one page of rows (tables), however many rows come.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import pyarrow as pa

from lake_connectors.cli.texts import is_list, json_texts, plain_texts, short_texts

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["bytes_text", "console", "note", "print_facts", "print_json", "write_rows"]

PAGE_ROWS = 1000
BATCH_ROWS = 4096
WIDE = 10_000
"""Columns of a page when nobody looks: a pipe or a file has no width that rows must fit."""


def write_rows(reader: pa.RecordBatchReader | pa.Table, output_format: str) -> int:
    """Write all rows to standard output; return how many there were."""
    source = reader.to_reader(BATCH_ROWS) if isinstance(reader, pa.Table) else reader
    batches = (piece for batch in source for piece in _pieces(batch))
    if output_format == "json":
        return _write_json(source.schema, batches)
    if output_format == "csv":
        return _write_csv(source.schema, batches)
    return _write_pages(source.schema, batches)


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    _binary_output().write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Names and values, one fact a line, values below each other."""
    pairs = list(facts)
    width = max((len(name) for name, _ in pairs), default=0)
    screen = console()
    for name, value in pairs:
        indented = value.replace("\n", "\n" + " " * (width + 2))
        screen.print(f"[bold]{name:<{width}}[/bold]  ", end="")
        screen.print(indented, markup=False, highlight=False)


def note(text: str) -> None:
    """A line for people beside the rows, on standard error so that it never mixes with them."""
    click.secho(text, err=True, dim=True)


def console() -> Console:
    """Standard output as rich sees it, wide enough for every row where it is not a terminal."""
    from rich.console import Console  # noqa: PLC0415 - rich is for people; machines need not wait for it

    screen = Console(highlight=False, soft_wrap=False)
    return screen if screen.is_terminal else Console(highlight=False, width=WIDE)


def bytes_text(count: int) -> str:
    """A number of bytes for people: ``812 B``, ``3.4 MB`` (decimal units)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _pieces(batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
    return (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def _binary_output() -> BinaryIO:
    """Standard output as bytes: UTF-8 whatever the locale, line ends as written."""
    sys.stdout.flush()
    return sys.stdout.buffer


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    out, count = _binary_output(), 0
    names = [json.dumps(name, ensure_ascii=False) + ": " for name in schema.names]
    for batch in batches:
        columns = [json_texts(column) for column in batch.columns]
        lines = [
            "{" + ", ".join(name + text for name, text in zip(names, row, strict=True)) + "}\n"
            for row in zip(*columns, strict=True)
        ]
        out.write("".join(lines).encode("utf-8"))
        count += batch.num_rows
    out.flush()
    return count


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    out, count = _binary_output(), 0
    out.write(_csv_text([schema.names]).encode("utf-8"))
    for batch in batches:
        columns = [plain_texts(column) for column in batch.columns]
        out.write(_csv_text(zip(*columns, strict=True)).encode("utf-8"))
        count += batch.num_rows
    out.flush()
    return count


def _csv_text(rows: Iterable[Sequence[str | None]]) -> str:
    """RFC 4180 lines in which NULL is nothing at all and the empty text is ``""``, so that both survive."""
    return "".join(",".join(map(_csv_cell, row)) + "\n" for row in rows)


def _csv_cell(text: str | None) -> str:
    if text is None:
        return ""
    if not text or text.strip() != text or any(sign in text for sign in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _write_pages(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    page: list[Sequence[str | None]] = []
    count = 0
    for batch in batches:
        page.extend(zip(*map(short_texts, batch.columns), strict=True))
        count += batch.num_rows
        if len(page) >= PAGE_ROWS:
            _print_page(schema, page)
            page = []
    if page or not count:
        _print_page(schema, page)
    return count


def _print_page(schema: pa.Schema, rows: Iterable[Sequence[str | None]]) -> None:
    from rich import box  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    page = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for field in schema:
        page.add_column(Text(field.name), justify="right" if _is_number(field.type) else "left", no_wrap=True)
    for row in rows:
        page.add_row(*(Text("NULL", style="dim") if cell is None else Text(cell) for cell in row))
    console().print(page)


def _is_number(data_type: pa.DataType) -> bool:
    types = pa.types
    return not is_list(data_type) and (
        types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type)
    )
