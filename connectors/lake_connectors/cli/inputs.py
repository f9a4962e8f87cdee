"""Files to append: Parquet, CSV, JSON and Arrow, each read as a stream of record batches.

Nothing here knows tables or commits; memory is one block of a file. A file that cannot be read is an
InvalidInputError that names it.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.json as pj
import pyarrow.parquet as pq

from lake_connectors.cli.decode import csv_wire_type, decoded, json_wire_type, parsed_json_column
from lake_format.errors import InvalidInputError

__all__ = ["INPUT_FORMATS", "Input", "find_inputs"]

INPUT_FORMATS = ("parquet", "csv", "tsv", "json", "arrow")
STANDARD_INPUT = "-"
BLOCK_BYTES = 4 << 20
PARQUET_BATCH_ROWS = 8192
ARRAY_ROWS = 4096
_SUFFIXES = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "tsv": "tsv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "arrow": "arrow",
    "arrows": "arrow",
    "ipc": "arrow",
    "feather": "arrow",
}
_COMPRESSED = ("gz", "bz2", "zst", "lz4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One file to read, or standard input."""

    path: str
    format: str

    @property
    def name(self) -> str:
        """What messages call it."""
        return "standard input" if self.path == STANDARD_INPUT else self.path

    def row_count(self) -> int | None:
        """The number of rows where the file tells it without being read, else None."""
        if self.format != "parquet":
            return None
        with _named(self):
            return int(pq.read_metadata(self.path).num_rows)

    def batches(self, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
        """The rows, batch by batch.

        Parameters
        ----------
        schema
            The table's schema, which tells how CSV and JSON values are meant; None infers their types.
        """
        read = _READERS[self.format]
        with _named(self):
            yield from read(self, schema)


def find_inputs(paths: Iterable[str], input_format: str | None) -> list[Input]:
    """Check that all files are there and their formats known, before any of them is read."""
    return [_input(path, input_format) for path in paths]


def _input(path: str, input_format: str | None) -> Input:
    if path == STANDARD_INPUT:
        if input_format is None:
            raise InvalidInputError(
                "standard input has no name to tell its format", fix="add --input-format json"
            )
        return Input(path=path, format=input_format)
    file = Path(path)
    if file.is_dir():
        raise InvalidInputError(f"{path} is a folder", fix=f"name its files: {file.name or path}/*.parquet")
    if not file.exists():
        raise InvalidInputError(f"there is no file {path}")
    suffixes = [suffix.lstrip(".").lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    found = input_format or (_SUFFIXES.get(suffixes[-1]) if suffixes else None)
    if found is None:
        raise InvalidInputError(
            f"the name of {path} does not tell its format",
            fix=f"add --input-format {'|'.join(INPUT_FORMATS)}",
        )
    return Input(path=path, format=found)


@contextmanager
def _named(source: Input) -> Iterator[None]:
    """Put the file's name before whatever goes wrong while it is read."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{source.name}: {error.what}", fix=error.fix) from error
    except (pa.lib.ArrowCancelled, BrokenPipeError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidInputError(f"{source.name} cannot be read as {source.format}: {text}") from error


def _stream(source: Input) -> Any:
    if source.path == STANDARD_INPUT:
        return pa.PythonFile(sys.stdin.buffer, mode="r")
    return pa.input_stream(source.path, compression="detect")


def _parquet(source: Input, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    if source.path == STANDARD_INPUT:
        raise InvalidInputError(
            "Parquet is read from its end, which standard input does not allow", fix="name a file"
        )
    with pq.ParquetFile(source.path, memory_map=True) as file:
        yield from file.iter_batches(PARQUET_BATCH_ROWS)


def _arrow(source: Input, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    if source.path == STANDARD_INPUT:
        with pa.ipc.open_stream(sys.stdin.buffer) as reader:
            yield from reader
        return
    with pa.memory_map(source.path) as mapped:
        if mapped.read(6) == b"ARROW1":
            with pa.ipc.open_file(mapped) as file:
                yield from (file.get_batch(index) for index in range(file.num_record_batches))
            return
        mapped.seek(0)
        with pa.ipc.open_stream(mapped) as reader:
            yield from reader


def _csv(source: Input, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    wanted = {field.name: field.type for field in schema or ()}
    convert = pcsv.ConvertOptions(
        column_types={name: csv_wire_type(data_type) for name, data_type in wanted.items()},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    with _stream(source) as stream:
        reader = pcsv.open_csv(
            stream,
            read_options=pcsv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=pcsv.ParseOptions(
                delimiter="\t" if source.format == "tsv" else ",", newlines_in_values=True
            ),
            convert_options=convert,
        )
        for batch in reader:
            yield _converted(batch, wanted, from_csv=True)


def _json(source: Input, schema: pa.Schema | None) -> Iterator[pa.RecordBatch]:
    wanted = {field.name: field.type for field in schema or ()}
    wire = pa.schema([(name, json_wire_type(data_type)) for name, data_type in wanted.items()])
    with _stream(source) as stream:
        start = stream.read(BLOCK_BYTES)
        whole = _Joined(start, stream)
        if start.lstrip()[:1] == b"[":
            batches = _json_array(whole, wire)
        elif start.strip():
            batches = _json_lines(whole, wire)
        else:
            return
        for batch in batches:
            yield _converted(batch, wanted, from_csv=False)


def _json_lines(stream: _Joined, wire: pa.Schema) -> Iterator[pa.RecordBatch]:
    reader = pj.open_json(
        pa.PythonFile(stream, mode="r"),
        read_options=pj.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pj.ParseOptions(explicit_schema=wire, newlines_in_values=True),
    )
    yield from reader


def _json_array(stream: _Joined, wire: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read one big JSON array of objects without holding more of it than a block."""
    rows: list[str] = []
    options = pj.ParseOptions(explicit_schema=wire, newlines_in_values=True)
    for row in _array_items(stream):
        rows.append(json.dumps(row))
        if len(rows) == ARRAY_ROWS:
            yield from pj.read_json(
                pa.py_buffer("\n".join(rows).encode()), parse_options=options
            ).to_batches()
            rows = []
    if rows:
        yield from pj.read_json(pa.py_buffer("\n".join(rows).encode()), parse_options=options).to_batches()


def _array_items(stream: _Joined) -> Iterator[dict[str, Any]]:
    decode = json.JSONDecoder().raw_decode
    utf8 = codecs.getincrementaldecoder("utf-8")()
    text, ended, count = "", False, 0
    while not ended:
        data = stream.read(BLOCK_BYTES)
        text += utf8.decode(data, final=not data)
        ended = not data
        position = text.index("[") + 1 if count == 0 and text.lstrip()[:1] == "[" else 0
        while True:
            position = _skip(text, position, ", \t\r\n" if count else " \t\r\n")
            if text[position : position + 1] == "]":
                return
            try:
                item, position = decode(text, position)
            except json.JSONDecodeError as error:
                if ended:
                    raise InvalidInputError(f"element {count} of the JSON array: {error.msg}") from error
                break
            if not isinstance(item, dict):
                raise InvalidInputError(
                    f"element {count} of the JSON array is no object", fix="rows are objects"
                )
            count += 1
            yield item
        text = text[position:] if count else text


def _skip(text: str, position: int, blanks: str) -> int:
    while position < len(text) and text[position] in blanks:
        position += 1
    return position


class _Joined:
    """A stream that gives back first what was already read from it."""

    closed = False

    def __init__(self, start: bytes, rest: Any) -> None:
        self._start, self._rest = start, rest

    def read(self, count: int = -1) -> bytes:
        """At most ``count`` bytes; none at the end."""
        if not self._start:
            return bytes(self._rest.read(None if count < 0 else count))
        part = self._start if count < 0 else self._start[:count]
        self._start = self._start[len(part) :]
        return part + (bytes(self._rest.read()) if count < 0 else b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Leave closing to whoever opened the stream below."""


def _converted(batch: pa.RecordBatch, wanted: dict[str, pa.DataType], *, from_csv: bool) -> pa.RecordBatch:
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        data_type = wanted.get(name)
        if data_type is None:
            columns.append(column)
            continue
        if from_csv and pa.types.is_nested(data_type):
            column = parsed_json_column(column, json_wire_type(data_type), name)  # noqa: PLW2901
        columns.append(decoded(column, data_type, name))
    # Columns that a JSON block never mentions arrive as NULLs of the wire type; a nested NULL has its type already.
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


_READERS: dict[str, Callable[[Input, pa.Schema | None], Iterator[pa.RecordBatch]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "tsv": _csv,
    "json": _json,
    "arrow": _arrow,
}
