"""The side of a table that many processes write together: each writes its part, one commits them all.

A part is a few hundred bytes that travel between processes: which files were written, and at which version. Nothing
is visible before :meth:`TableParts.commit_parts`; parts that are never committed are garbage that collection removes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lake_format.changes import AddFragments
from lake_format.errors import CorruptionError, InvalidInputError, UnsupportedError
from lake_format.keys import key_columns
from lake_format.manifest import FragmentTable, decode_manifest, inline_manifest
from lake_format.model import Fragment, ManifestReference, NewFragment, Version
from lake_format.operation_record import OperationRecord
from lake_format.row_changes import ChangeRows
from lake_format.row_edits import RowRequest
from lake_format.snapshot import Snapshot
from lake_format.table_core import TableCore, checked_idempotency
from lake_format.transaction import Change, Idempotency

__all__ = ["TableParts"]

_MAGIC = b"LAKEPRT0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    table_id: str
    version: int
    fragments: tuple[NewFragment, ...]
    features: frozenset[str]

    @property
    def rows(self) -> int:
        return sum(fragment.row_count for fragment in self.fragments)


class TableParts(TableCore):
    """Appending from many processes with one commit."""

    def write_part(self, data: object) -> bytes:
        """Write rows that are not part of the table yet; for :meth:`commit_parts`, in this process or another.

        Parameters
        ----------
        data
            As for :meth:`append`.

        Returns
        -------
        bytes
            What was written, to be handed to whoever commits. Empty where there were no rows.

        Raises
        ------
        UnsupportedError
            The table has a key: its rows must be compared with each other, which no part can do alone.
        """
        version = self._snapshot.version
        if key_columns(version):
            raise UnsupportedError(
                "the table has a key, and the rows of a part are compared with no other part's",
                fix="write the parts to a table without key and upsert() from it",
            )
        written = self._engine.write(self._store, self._write_request(data, version))
        return _encoded(version, written.fragments, written.features) if written.rows else b""

    def commit_parts(
        self,
        parts: Iterable[bytes],
        *,
        overwrite: bool = False,
        idempotency: tuple[str, int] | None = None,
    ) -> Self:
        """Append the rows of parts, all or none, in one commit.

        Parameters
        ----------
        parts
            What :meth:`write_part` returned; all of one version of this table.
        overwrite
            Delete, in the same commit, every row of the version the parts were written at. Rows that others append
            meanwhile stay.
        idempotency
            As for :meth:`append`.

        Raises
        ------
        InvalidInputError
            Parts of another table, or of several versions.
        ConflictError
            The table changed since so that the rows do not fit it. The files stay until they are collected, or
            :meth:`discard_parts` removes them.
        """
        self._require_writable()
        mark = checked_idempotency(idempotency)
        found = [_decoded(part) for part in parts if part]
        base = self._base_of(found)
        if not found and not overwrite:
            return self
        fragments = tuple(fragment for part in found for fragment in part.fragments)
        rows = sum(part.rows for part in found)
        changes: list[Change] = []
        if overwrite:
            changes += self._everything_deleted(base)
        changes.append(
            AddFragments(
                record=OperationRecord(kind="append", rows_added=rows),
                summary={"rows": rows, "fragments": len(fragments), "parts": len(found)},
                fragments=fragments,
                features=frozenset[str]().union(*(part.features for part in found)),
                first_row_id=base.next_row_id,
            )
        )
        self._land(changes, base, mark)
        return self

    def discard_parts(self, parts: Iterable[bytes]) -> None:
        """Remove the files of parts that will not be committed.

        Parts that were committed are left alone, whoever is told to discard them: a job may fail after its commit.
        """
        found = [_decoded(part) for part in parts if part]
        if not found:
            return
        live = self._files_since(min(part.version for part in found))
        for part in found:
            groups = [group for fragment in part.fragments for group in fragment.groups]
            self._engine.discard_files(self._store, [group for group in groups if group.path not in live])

    # --- inside -------------------------------------------------------------------------------------------

    def _base_of(self, parts: Sequence[_Part]) -> Version:
        """The version that parts were written at."""
        newest = self.refresh().snapshot.version
        if not parts:
            return newest
        if any(part.table_id != newest.table_id for part in parts):
            raise InvalidInputError("a part was written for another table", fix="write it anew")
        versions = {part.version for part in parts}
        if len(versions) > 1:
            raise InvalidInputError(
                f"the parts were written at the versions {', '.join(map(str, sorted(versions)))}",
                fix="open the table at one version in all processes",
            )
        number = versions.pop()
        return newest if number == newest.version else self._log.read(number)

    def _everything_deleted(self, base: Version) -> list[Change]:
        snapshot = Snapshot(self._store, base, self._manifests)
        request = RowRequest(kind="delete", where="true", new_id=self._around.new_id)
        plan = self._engine.plan_rows(snapshot, request)
        return [] if plan.changes_nothing else [ChangeRows(self._engine, request, plan)]

    def _land(self, changes: Sequence[Change], base: Version, mark: Idempotency | None) -> None:
        self._commit(*changes, base=base, idempotency=mark)

    def _files_since(self, version: int) -> set[str]:
        """Files that any version from one on has: those of the newest, and of the fragments added on the way."""
        newest = self.refresh().snapshot.version
        paths: set[str] = set()
        for number in range(version, newest.version + 1):
            one = newest if number == newest.version else self._log.find(number)
            if one is not None:
                snapshot = Snapshot(self._store, one, self._manifests)
                paths.update(file.path for f in snapshot.fragments.fragments() for file in f.files())
        return paths


def _encoded(version: Version, fragments: Sequence[NewFragment], features: frozenset[str]) -> bytes:
    row_id, placed = 0, []
    for number, fragment in enumerate(fragments):
        placed.append(fragment.placed(number, first_row_id=row_id))
        row_id += fragment.row_count
    manifest = inline_manifest(placed)
    assert manifest.body is not None
    head = json.dumps(
        {
            "table_id": version.table_id,
            "version": version.version,
            "features": sorted(features),
            "fragments": manifest.fragment_count,
            "rows": manifest.row_count,
            "size": manifest.size,
            "crc": manifest.crc,
        }
    ).encode()
    body = len(head).to_bytes(4, "little") + head + manifest.body
    return _MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def _decoded(data: bytes) -> _Part:
    """Read and check a part; CorruptionError for anything else."""
    body = data[12:]
    if data[:8] != _MAGIC or len(data) < 16 or zlib.crc32(body) != int.from_bytes(data[8:12], "little"):
        raise CorruptionError("a part is truncated, altered, or no part of a table")
    length = int.from_bytes(body[:4], "little")
    try:
        head: dict[str, Any] = json.loads(body[4 : 4 + length])
        reference = ManifestReference(
            path=None,
            size=head["size"],
            crc=head["crc"],
            fragment_count=head["fragments"],
            row_count=head["rows"],
            first_fragment_id=0,
            last_fragment_id=head["fragments"] - 1,
        )
        table = decode_manifest(body[4 + length :], reference)
        return _Part(
            table_id=head["table_id"],
            version=head["version"],
            features=frozenset(head["features"]),
            fragments=tuple(_unplaced(one) for one in FragmentTable([table]).fragments()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"a part is malformed: {error}") from error


def _unplaced(fragment: Fragment) -> NewFragment:
    return NewFragment(
        row_count=fragment.row_count,
        groups=fragment.groups,
        statistics=fragment.statistics,
        partition=fragment.partition,
        clustering=fragment.clustering,
    )
