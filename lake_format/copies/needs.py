"""What a version needs besides its own object, and the version as it is where nothing lies outside its root.

Reads manifests, never data. A version that refers to external files is written anew for a copy that stands alone: the
files get names of the table's own, the same at every backup, so that each is copied once (spec/copies.md, CPY-3).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from lake_format.copies.copying import Wanted, digest
from lake_format.errors import CorruptionError
from lake_format.manifest import decode_manifest, inline_manifest, named_files, with_file_paths
from lake_format.model import EXTERNAL_FEATURE, FILE_COLUMNS, IndexEntry, ManifestReference, Version
from lake_format.paths import data_path, index_path, manifest_path
from lake_format.store.base import ByteRange, Store
from lake_format.store.paths import check_path, is_external, split_external

__all__ = ["Needs", "needs_of"]


@dataclass(slots=True)
class Needs:
    """A version that stands alone, and the objects it is made of.

    Attributes
    ----------
    version
        The version itself where it names no external root.
    copies
        Objects to copy, each once.
    made
        Manifests that had to be written anew, by path.
    """

    version: Version
    copies: list[Wanted] = field(default_factory=list)
    made: dict[str, bytes] = field(default_factory=dict)


def needs_of(store: Store, version: Version) -> Needs:
    """What a copy of a version consists of.

    Parameters
    ----------
    store
        The table's store, which may read the external roots of the version.
    """
    needs = Needs(version)
    manifests = [_manifest(store, version, reference, needs) for reference in version.manifests]
    indexes = [_index(version, entry, needs) for entry in version.indexes]
    key_index = (
        None if version.key_index is None else version.key_index.renamed(partial(_key_run, version, needs))
    )
    for record in version.operations:
        place = record.get("key_hashes_at")
        if isinstance(place, str):
            needs.copies.append(Wanted(check_path(place), place))
    needs.copies = list({one.path: one for one in needs.copies}.values())
    if version.roots:
        needs.version = replace(
            version,
            manifests=tuple(manifests),
            indexes=tuple(indexes),
            key_index=key_index,
            roots={},
            cloned_from=(),
            required_features=version.required_features - {EXTERNAL_FEATURE},
        )
    return needs


def _manifest(
    store: Store, version: Version, reference: ManifestReference, needs: Needs
) -> ManifestReference:
    """Note the live files of a manifest and the manifest itself; return it as it is in the copy."""
    body = reference.body
    if body is None:
        assert reference.path is not None
        (body,) = store.get_ranges([ByteRange(reference.path, 0, reference.size)])
    table = decode_manifest(body, reference)
    external = False
    for column in FILE_COLUMNS:
        names: list[str] = []
        for path, form, size, live in _files(table, reference, column):
            name = path
            if is_external(path):
                external = True
                name = data_path(_own_id(version, path, size), form)
            names.append(name)
            if live:
                needs.copies.append(Wanted(path, name, size))
        table = with_file_paths(table, column, pa.array(names, pa.string()))
    if external:
        return _made(table, reference, needs)
    if reference.path is not None:
        needs.copies.append(Wanted(reference.path, reference.path, reference.size))
    return reference


def _files(
    table: pa.Table, reference: ManifestReference, column: str
) -> Iterator[tuple[str, str, int, bool]]:
    """Path, format and size of the files in a column of a manifest, and whether a live fragment has each."""
    owners, files = named_files(table, column)
    removed = pa.array(reference.removed, pa.uint64())
    live = pc.invert(pc.is_in(table.column("fragment_id").take(owners), value_set=removed))
    columns = [files.field(name).to_pylist() for name in ("path", "format", "size")]
    yield from zip(*columns, live.to_pylist(), strict=True)


def _made(table: pa.Table, reference: ManifestReference, needs: Needs) -> ManifestReference:
    """The manifest written anew, inline if it was; an object is named by its content, so none is written twice."""
    made = inline_manifest(table)
    body = made.body or b""
    made = replace(reference, path=None, size=made.size, crc=made.crc, body=body)
    if reference.path is None:
        return made
    path = manifest_path(uuid.UUID(bytes=digest(body)[:16], version=8))
    needs.made[path] = body
    return replace(made, path=path, body=None)


def _key_run(version: Version, needs: Needs, path: str, size: int) -> str:
    """Note a file of the key index; return its name in the copy."""
    name = index_path(_own_id(version, path, size)) if is_external(path) else path
    needs.copies.append(Wanted(path, name, size))
    return name


def _index(version: Version, entry: IndexEntry, needs: Needs) -> IndexEntry:
    shards = []
    for shard in entry.shards:
        name = shard.path
        if is_external(name):
            name = index_path(_own_id(version, name, shard.size))
        needs.copies.append(Wanted(shard.path, name, shard.size))
        shards.append(replace(shard, path=name))
    return replace(entry, shards=tuple(shards))


def _own_id(version: Version, path: str, size: int) -> uuid.UUID:
    """The identifier under which an external object is kept: it follows from where the object is."""
    number, inner = split_external(path)
    if number is None or number not in version.roots:
        raise CorruptionError(f"{path!r} lies in an external root that the version does not name")
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{version.roots[number]}/{inner}#{size}")
