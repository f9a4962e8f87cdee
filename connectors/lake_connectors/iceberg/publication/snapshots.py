"""From one published version to the next: which manifests stay, and what new ones say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyiceberg.manifest import ManifestContent, ManifestEntry, ManifestFile
from pyiceberg.schema import Schema
from pyroaring import BitMap64

from lake_connectors.iceberg.publication.contents import Contents
from lake_connectors.iceberg.publication.deletes import write_deletes
from lake_connectors.iceberg.publication.folder import Folder
from lake_connectors.iceberg.publication.manifests import (
    added,
    existing,
    live_entries,
    removed,
    write_manifest,
)

__all__ = ["Change", "Step"]

_MOST_MANIFESTS = 64
"""From so many manifests of a kind on they are written anew as one, so that planning stays short."""


@dataclass(slots=True)
class Change:
    """What a snapshot has more and less than the one before it."""

    data_files_added: int = 0
    data_files_removed: int = 0
    rows_added: int = 0
    rows_removed: int = 0
    delete_files_added: int = 0
    delete_files_removed: int = 0
    rows_deleted: int = 0

    @property
    def operation(self) -> str:
        """Iceberg's name for it."""
        if self.data_files_removed or self.delete_files_removed:
            return "overwrite"
        return "delete" if self.delete_files_added and not self.data_files_added else "append"


@dataclass(slots=True)
class Step:
    """A snapshot in the making.

    Attributes
    ----------
    now
        What is to be published.
    before
        What was published last; None where that is not known any more, or nothing was.
    manifests
        Those of the snapshot before; all are given up where ``before`` is None.
    """

    folder: Folder
    schema: Schema
    snapshot_id: int
    now: Contents
    before: Contents | None
    manifests: Sequence[ManifestFile]
    change: Change = field(default_factory=Change)

    def run(self) -> list[ManifestFile]:
        """Write what is new; the manifests of the snapshot."""
        old = self.before.fragments if self.before is not None else {}
        new = [path for path in self.now.fragments if path not in old]
        gone = frozenset(self.now.location(path) for path in old if path not in self.now.fragments)
        self.now.check_files(new)
        data = self._kept(ManifestContent.DATA, gone)
        if new:
            entries = [added(self.now.data_file(path, self.schema), self.snapshot_id) for path in new]
            self.change.data_files_added = len(entries)
            self.change.rows_added = sum(one.data_file.record_count for one in entries)
            data.append(self._written(entries, ManifestContent.DATA))
        return data + self._deletes()

    def _deletes(self) -> list[ManifestFile]:
        """Manifests of delete files: a further file with what was deleted since, or one that replaces them all."""
        more, kept = self._newly_deleted(), self._of(ManifestContent.DELETES)
        if more is None or self._crowded(ManifestContent.DELETES):
            more = {path: self.now.deletions(path) for path in self.now.fragments}
            self.change.delete_files_removed = sum(map(_live, kept))
            kept = []
        self.change.rows_deleted = sum(map(len, more.values()))
        targets = {self.now.location(path): one for path, one in more.items() if one}
        if not targets:
            return kept
        self.change.delete_files_added = 1
        file = write_deletes(self.folder, targets)
        return [*kept, self._written([added(file, self.snapshot_id)], ManifestContent.DELETES)]

    def _newly_deleted(self) -> dict[str, BitMap64] | None:
        """What was deleted since, by file; None where rows came back, or nobody knows what was deleted before.

        A file that comes back is newer than the deletes that were written for it, and so out of their reach; but
        pyiceberg 0.12 applies whatever it reads to all files of that name.
        """
        if self.before is None:
            return None
        found: dict[str, BitMap64] = {}
        for path, fragment in self.now.fragments.items():
            known = self.before.fragments.get(path)
            if known is None and fragment.fragment_id < self.before.snapshot.version.next_fragment_id:
                return None
            if known is not None and known.deletions == fragment.deletions:
                continue
            positions = self.now.deletions(path)
            if known is not None:
                earlier = self.before.deletions(path)
                if earlier - positions:
                    return None
                positions = positions - earlier
            found[path] = positions
        return found

    def _of(self, content: ManifestContent) -> list[ManifestFile]:
        return [one for one in self.manifests if one.content == content]

    def _crowded(self, content: ManifestContent) -> bool:
        return len(self._of(content)) >= _MOST_MANIFESTS

    def _kept(self, content: ManifestContent, gone: frozenset[str]) -> list[ManifestFile]:
        """The manifests of what stays; those that name something gone are written anew."""
        found = [one for one in self._of(content) if _live(one)]
        if self.before is None:
            self.change.data_files_removed = sum(map(_live, found))
            return []
        if not gone and not self._crowded(content):
            return found
        kept: list[ManifestFile] = []
        anew: list[ManifestEntry] = []
        left = len(gone)
        for manifest in found:
            entries = live_entries(self.folder, manifest) if left or self._crowded(content) else []
            hit = [one for one in entries if one.data_file.file_path in gone]
            if not hit and not self._crowded(content):
                kept.append(manifest)
                continue
            left -= len(hit)
            self.change.data_files_removed += len(hit)
            self.change.rows_removed += sum(one.data_file.record_count for one in hit)
            anew += [
                removed(one, self.snapshot_id) if one.data_file.file_path in gone else existing(one)
                for one in entries
            ]
        return [*kept, self._written(anew, content)] if anew else kept

    def _written(self, entries: Sequence[ManifestEntry], content: ManifestContent) -> ManifestFile:
        return write_manifest(self.folder, self.schema, self.snapshot_id, entries, content)


def _live(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
