"""Where an Iceberg table is, which places its files may be read in, and its metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.metadata import TableMetadata

from lake_connectors.iceberg.locations import Locations, place_of
from lake_connectors.iceberg.source import read_metadata
from lake_format.errors import InvalidInputError
from lake_format.store.consent import AllowExternal
from lake_format.store.places import Place

if TYPE_CHECKING:
    from lake_format.store.base import Store
    from lake_format.store.options import Value

__all__ = ["allowed_places", "home_of", "metadata_of"]


def home_of(source: object) -> Place:
    """The place that an Iceberg table's files are expected in.

    Raises
    ------
    InvalidInputError
        It is neither a pyiceberg table nor the location of a metadata file.
    """
    if isinstance(source, IcebergTable):
        return place_of(source.metadata.location)
    if not isinstance(source, str | os.PathLike) or not os.fspath(source).endswith(".metadata.json"):
        raise InvalidInputError(
            f"{source!r} is no Iceberg table",
            fix="give a pyiceberg table, or the location of its ….metadata.json file",
        )
    folder = place_of(os.fspath(source)).folder
    return folder.folder if folder.parts[-1:] == ("metadata",) else folder


def allowed_places(
    home: Place, source_options: Mapping[str, str] | None, allow_external: AllowExternal | None
) -> Mapping[str, Mapping[str, Value] | Store | None]:
    """The places that naming the Iceberg table allows to read, and those the user added."""
    if allow_external is None:
        allow_external = ()
    given = (allow_external,) if isinstance(allow_external, str) else allow_external
    more = given if isinstance(given, Mapping) else dict.fromkeys(given)
    return {home.uri: source_options, **more}


def metadata_of(source: IcebergTable | str | os.PathLike[str], locations: Locations) -> TableMetadata:
    """What the Iceberg table's metadata file says; CorruptionError where that cannot be read."""
    if isinstance(source, IcebergTable):
        return source.metadata
    return read_metadata(locations, os.fspath(source))
