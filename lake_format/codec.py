"""The bytes of a version object, there and back. The only place that knows them (spec/tables.md, TAB clauses).

::

    magic "LAKEVER0" | u32 length | u32 length unpacked | u32 crc | zstd(JSON) | inline manifests

Stored bytes are untrusted: magic, lengths, checksum, required features and every field are checked here.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from lake_format.checkpoint import entries_to_json, recent_from_json
from lake_format.checksum import crc32
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.key_index import KeyIndex
from lake_format.lines import branches_from_json, merges_from_json, origin_from_json
from lake_format.model import (
    EXTERNAL_FEATURE,
    FORMAT_VERSION,
    KNOWN_FEATURES,
    IndexEntry,
    IndexShard,
    ManifestReference,
    Version,
)
from lake_format.packed_json import pack_json, unpack_json
from lake_format.partitioning import PartitionSpec, spec_from_json, spec_to_json
from lake_format.pins import sources_from_json, sources_to_json
from lake_format.schema import schema_from_bytes, schema_to_bytes
from lake_format.store.paths import check_object_path, split_external
from lake_format.store.places import Place

__all__ = ["MAGIC", "decode_version", "encode_version", "index_from_json", "index_to_json"]

MAGIC = b"LAKEVER0"
_LIMIT = 1 << 63


def encode_version(version: Version) -> bytes:
    """The bytes of a version object, inline manifests included."""
    tail = [reference.body or b"" for reference in version.manifests if reference.path is None]
    return b"".join([pack_json(MAGIC, _version_to_json(version)), *tail])


def decode_version(data: bytes, where: str) -> Version:
    """Read and check a version object.

    Parameters
    ----------
    where
        The object's path, for messages.

    Raises
    ------
    CorruptionError
        The bytes are not a whole, unaltered version object.
    UnsupportedError
        A newer format version, or a required feature this release does not know.
    """
    raw, tail = unpack_json(data, MAGIC, where, "a version object")
    try:
        _check_understood(raw, where)
        return _version_from_json(raw, tail)
    except CorruptionError as error:
        raise CorruptionError(f"{where}: {error.what}") from error
    except (LookupError, TypeError, ValueError, ArithmeticError, InvalidInputError) as error:
        raise CorruptionError(f"{where} has a missing or malformed field: {error!r}") from error


def _check_understood(raw: dict[str, Any], where: str) -> None:
    """Refuse what a newer release wrote, before anything else of it is looked at."""
    format_version = _integer(raw, "format_version")
    if format_version > FORMAT_VERSION:
        raise UnsupportedError(
            f"{where} has format version {format_version}; this release reads up to {FORMAT_VERSION}",
            fix="upgrade lake-format",
        )
    unknown = sorted(_texts(raw, "required_features") - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedError(f"{where} requires the feature {unknown[0]!r}", fix="upgrade lake-format")


def _version_to_json(version: Version) -> dict[str, Any]:
    optional = {
        "refs": dict(version.refs),
        "horizon": version.horizon,
        "roots": {str(number): uri for number, uri in version.roots.items()},
        "history": entries_to_json(version.history),
        "key_index": None if version.key_index is None else version.key_index.to_json(),
        "origin": version.origin and version.origin.to_json(),
        "branches": {name: entry.to_json() for name, entry in version.branches.items()},
        "merges": {str(line): number for line, number in version.merges.items()},
        "cloned_from": sources_to_json(version.cloned_from),
    }
    return {
        **version.extra,
        **{key: value for key, value in optional.items() if value},
        **_partitioning_to_json(version),
        "format_version": FORMAT_VERSION,
        "required_features": sorted(version.required_features),
        "table_id": version.table_id,
        "version": version.version,
        "parent": version.parent,
        "commit_id": version.commit_id,
        "committed_at": version.committed_at,
        "writer_id": version.writer_id,
        "operations": [dict(record) for record in version.operations],
        "summary": dict(version.summary),
        "schema_id": version.schema_id,
        "schemas": {str(key): _b64(schema_to_bytes(schema)) for key, schema in version.schemas.items()},
        "next_field_id": version.next_field_id,
        "next_row_id": version.next_row_id,
        "next_fragment_id": version.next_fragment_id,
        "row_count": version.row_count,
        "properties": dict(version.properties),
        "sequences": dict(version.sequences),
        "manifests": [_manifest_to_json(reference) for reference in version.manifests],
        "indexes": [index_to_json(entry) for entry in version.indexes],
    }


_KNOWN_KEYS = frozenset(
    [
        "format_version",
        "required_features",
        "table_id",
        "version",
        "parent",
        "commit_id",
        "committed_at",
        "writer_id",
        "operations",
        "summary",
        "schema_id",
        "schemas",
        "next_field_id",
        "next_row_id",
        "next_fragment_id",
        "row_count",
        "properties",
        "sequences",
        "manifests",
        "indexes",
        "refs",
        "horizon",
        "roots",
        "history",
        "key_index",
        "origin",
        "branches",
        "merges",
        "cloned_from",
        "partition_specs",
        "partition_spec_id",
    ]
)


def _version_from_json(raw: dict[str, Any], tail: memoryview) -> Version:
    stored = _mapping(raw, "schemas")
    schemas = {_number(key, "a schema"): schema_from_bytes(_unb64(text)) for key, text in stored.items()}
    schema_id = _integer(raw, "schema_id")
    if schema_id not in schemas:
        raise CorruptionError(f"the current schema {schema_id} is not among the schemas")
    manifests, used = _manifests_from_json(_list(raw, "manifests"), tail)
    if used != len(tail):
        raise CorruptionError("the object is longer or shorter than its manifests say")
    parent, roots = raw["parent"], _roots_from_json(raw)
    specs, spec_id = _partitioning_from_json(raw)
    indexes = tuple(index_from_json(entry) for entry in _list(raw, "indexes"))
    key_index = KeyIndex.from_json(raw["key_index"]) if "key_index" in raw else None
    named = [one.path for one in manifests if one.path] + [one.path for e in indexes for one in e.shards]
    for path in (*named, *(key_index.paths() if key_index else ())):
        number = split_external(path)[0]
        if number is not None and number not in roots:
            raise CorruptionError(f"{path!r} lies in an external root that the version does not name")
    return Version(
        table_id=_text(raw, "table_id"),
        version=_integer(raw, "version"),
        parent=None if parent is None else _integer(raw, "parent"),
        commit_id=_text(raw, "commit_id"),
        committed_at=_integer(raw, "committed_at"),
        writer_id=_text(raw, "writer_id"),
        operations=tuple(_mapping({"operation": record}, "operation") for record in _list(raw, "operations")),
        summary=_mapping(raw, "summary"),
        schema_id=schema_id,
        schemas=schemas,
        next_field_id=_integer(raw, "next_field_id"),
        next_row_id=_integer(raw, "next_row_id"),
        next_fragment_id=_integer(raw, "next_fragment_id"),
        row_count=_integer(raw, "row_count"),
        manifests=manifests,
        indexes=indexes,
        key_index=key_index,
        properties=_text_mapping(raw, "properties"),
        sequences={writer: _integer(raw["sequences"], writer) for writer in _mapping(raw, "sequences")},
        required_features=_texts(raw, "required_features"),
        refs=_refs_from_json(raw),
        horizon=_integer(raw, "horizon") if "horizon" in raw else 0,
        roots=roots,
        history=recent_from_json(raw.get("history"), raw["version"], raw["committed_at"]),
        origin=origin_from_json(raw.get("origin")),
        branches=branches_from_json(raw.get("branches", {})),
        merges=merges_from_json(raw.get("merges", {})),
        cloned_from=sources_from_json(raw.get("cloned_from", []), roots),
        partition_specs=specs,
        partition_spec_id=spec_id,
        extra={key: value for key, value in raw.items() if key not in _KNOWN_KEYS},
    )


def _partitioning_to_json(version: Version) -> dict[str, Any]:
    """Nothing for a table that never was partitioned."""
    if version.partition_spec_id is None:
        assert not version.partition_specs, "specs of fragments would be lost"
        return {}
    specs = [spec_to_json(spec) for spec in version.partition_specs.values()]
    return {"partition_specs": specs, "partition_spec_id": version.partition_spec_id}


def _partitioning_from_json(raw: dict[str, Any]) -> tuple[dict[int, PartitionSpec], int | None]:
    if "partition_spec_id" not in raw:
        return {}, None
    specs = {spec.spec_id: spec for spec in map(spec_from_json, _list(raw, "partition_specs"))}
    if (current := _integer(raw, "partition_spec_id")) not in specs:
        raise CorruptionError(f"the current partition spec {current} is not among the specs")
    return specs, current


def _refs_from_json(raw: dict[str, Any]) -> dict[str, int]:
    refs = _mapping(raw, "refs") if "refs" in raw else {}
    numbers = {name: _integer(refs, name) for name in refs}
    if any(not 1 <= number < raw["version"] for number in numbers.values()):
        raise CorruptionError("a tag does not name an earlier version")
    return numbers


def _roots_from_json(raw: dict[str, Any]) -> dict[int, str]:
    roots = {}
    for key, uri in (_text_mapping(raw, "roots") if "roots" in raw else {}).items():
        number = _number(key, "an external root")
        check_object_path(f"@{number}/-")
        roots[number] = Place.stored(uri).uri
    if roots and EXTERNAL_FEATURE not in _texts(raw, "required_features"):
        raise CorruptionError(f"the version names external roots and does not require {EXTERNAL_FEATURE!r}")
    return roots


def _manifest_to_json(reference: ManifestReference) -> dict[str, Any]:
    known: dict[str, Any] = {} if reference.row_ids is None else {"row_ids": list(reference.row_ids)}
    if reference.bounds:
        known["bounds"] = [[field, _b64(lower), _b64(upper)] for field, lower, upper in reference.bounds]
    return {
        "path": reference.path,
        "size": reference.size,
        "crc": reference.crc,
        "fragment_count": reference.fragment_count,
        "row_count": reference.row_count,
        "first_fragment_id": reference.first_fragment_id,
        "last_fragment_id": reference.last_fragment_id,
        "removed": list(reference.removed),
        **known,
    }


def _manifests_from_json(
    entries: list[dict[str, Any]], tail: memoryview
) -> tuple[tuple[ManifestReference, ...], int]:
    references = []
    used = 0
    for entry in entries:
        path, size = entry["path"], _integer(entry, "size")
        body = None
        if path is None:
            body = bytes(tail[used : used + size])
            used += size
            if len(body) != size or crc32(body) != entry["crc"]:
                raise CorruptionError("an inline manifest is truncated or altered (checksum does not match)")
        references.append(
            ManifestReference(
                path=None if path is None else check_object_path(path),
                size=size,
                crc=_integer(entry, "crc"),
                fragment_count=_integer(entry, "fragment_count"),
                row_count=_integer(entry, "row_count"),
                first_fragment_id=_integer(entry, "first_fragment_id"),
                last_fragment_id=_integer(entry, "last_fragment_id"),
                removed=tuple(_integer({"removed": one}, "removed") for one in _list(entry, "removed")),
                row_ids=_row_ids_from_json(entry.get("row_ids")),
                bounds=tuple(_bounds_from_json(one) for one in entry.get("bounds", ())),
                body=body,
            )
        )
    return tuple(references), used


def _row_ids_from_json(raw: object) -> tuple[int, int] | None:
    """The smallest and the greatest row id of a manifest, where they are told."""
    if raw is None:
        return None
    ends = [_integer({"row_ids": one}, "row_ids") for one in _list({"row_ids": raw}, "row_ids")]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise CorruptionError(f"row_ids of a manifest are {raw!r}, not the smallest and the greatest")
    return ends[0], ends[1]


def _bounds_from_json(raw: object) -> tuple[int, bytes, bytes]:
    """A field's bounds over a manifest."""
    if not isinstance(raw, list) or len(raw) != 3:
        raise CorruptionError(f"bounds of a manifest hold {raw!r}")
    field, lower, upper = raw
    return (
        _integer({"field": field}, "field"),
        _unb64(_text({"lower": lower}, "lower")),
        _unb64(_text({"upper": upper}, "upper")),
    )


def index_to_json(entry: IndexEntry) -> dict[str, Any]:
    """An index as plain JSON."""
    return {
        "index_id": entry.index_id,
        "name": entry.name,
        "kind": entry.kind,
        "field_id": entry.field_id,
        "metric": entry.metric,
        "parameters": dict(entry.parameters),
        "stale": None if entry.stale is None else _b64(entry.stale),
        "shards": [
            {
                "path": shard.path,
                "size": shard.size,
                "head_length": shard.head_length,
                "head_crc": shard.head_crc,
                "row_count": shard.row_count,
                "row_ids": _b64(shard.row_ids),
            }
            for shard in entry.shards
        ],
    }


def index_from_json(raw: dict[str, Any]) -> IndexEntry:
    """What :func:`index_to_json` gave; CorruptionError, KeyError or TypeError for anything else."""
    shards = tuple(
        IndexShard(
            path=check_object_path(_text(shard, "path")),
            size=_integer(shard, "size"),
            head_length=_integer(shard, "head_length"),
            head_crc=_integer(shard, "head_crc"),
            row_count=_integer(shard, "row_count"),
            row_ids=_unb64(shard["row_ids"]),
        )
        for shard in _list(raw, "shards")
    )
    return IndexEntry(
        index_id=_text(raw, "index_id"),
        name=_text(raw, "name"),
        kind=_text(raw, "kind"),
        field_id=_integer(raw, "field_id"),
        metric=_text(raw, "metric"),
        parameters=_mapping(raw, "parameters"),
        shards=shards,
        stale=None if raw["stale"] is None else _unb64(raw["stale"]),
    )


def _typed(raw: Mapping[str, Any], key: str, check: Callable[[Any], bool], kind: str) -> Any:
    value = raw[key]
    if not check(value):
        raise CorruptionError(f"{key} must be {kind}, not {value!r}")
    return value


def _integer(raw: Mapping[str, Any], key: str) -> int:
    def natural(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LIMIT

    return int(_typed(raw, key, natural, "a whole number below 2**63"))


def _text(raw: Mapping[str, Any], key: str) -> str:
    return str(_typed(raw, key, lambda v: isinstance(v, str), "a text"))


def _list(raw: Mapping[str, Any], key: str) -> list[Any]:
    return list(_typed(raw, key, lambda v: isinstance(v, list), "a list"))


def _texts(raw: Mapping[str, Any], key: str) -> frozenset[str]:
    return frozenset(_text({key: value}, key) for value in _list(raw, key))


def _text_mapping(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    values = _mapping(raw, key)
    return {name: _text(values, name) for name in values}


def _number(key: str, of: str) -> int:
    if not (key.isascii() and key.isdigit()) or str(int(key)) != key:
        raise CorruptionError(f"{of} has the id {key!r}, which is not a whole number")
    return int(key)


def _mapping(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    return dict(_typed(raw, key, lambda v: isinstance(v, dict), "an object"))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
