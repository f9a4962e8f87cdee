"""Data files: byte-addressable vector Parquet, Vortex and Parquet, written and read (``spec/files.md``).

Start at :mod:`.base` for the protocols and at :func:`open_writer` and :func:`open_reader`.
"""

from lake_engines.files.base import FileReader, FileWriter, Positions, WrittenFile, take_any_order
from lake_engines.files.opening import describe_file, open_reader, open_sized_writer, open_writer
from lake_engines.files.parquet_types import parquet_can_hold
from lake_engines.files.vector_reader import VectorReader, vectors_to_arrow
from lake_engines.files.vector_writer import can_be_paged
from lake_engines.files.vortex_types import vortex_can_hold

__all__ = [
    "FileReader",
    "FileWriter",
    "Positions",
    "VectorReader",
    "WrittenFile",
    "can_be_paged",
    "describe_file",
    "open_reader",
    "open_sized_writer",
    "open_writer",
    "parquet_can_hold",
    "take_any_order",
    "vectors_to_arrow",
    "vortex_can_hold",
]
