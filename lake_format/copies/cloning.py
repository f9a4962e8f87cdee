"""A new table that shares the files of a version of another one: not a byte of data is read or copied.

The order keeps what is shared from being collected: pins first, then a look whether the version is still kept, then
the clone's first version, which makes the table (spec/copies.md, CPY-7 to CPY-10).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from lake_format.branches import name_of_line, require_forkable
from lake_format.errors import AlreadyExistsError, LakeError, NotWrittenError, UnsupportedError
from lake_format.lines import LINE_IDS, claim_line, line_of
from lake_format.log import VersionLog
from lake_format.manifest import decode_manifest, inline_manifest, placed_in
from lake_format.model import EXTERNAL_FEATURE, ManifestReference, Version
from lake_format.paths import LINES, line_number
from lake_format.pins import CloneSource, Pin
from lake_format.roots import numbered_root
from lake_format.store.base import Store
from lake_format.store.paths import external_path, is_external
from lake_format.store.table_store import TableStore
from lake_format.transaction import Surroundings

__all__ = ["Cloning"]


@dataclass(slots=True)
class Cloning:
    """One clone in the making.

    Attributes
    ----------
    source
        The store of the table that is cloned.
    parent
        The version of it that the clone begins with.
    newest
        Reads the newest version of the source's main.
    """

    source: TableStore
    parent: Version
    newest: Callable[[], Version]
    target: Store
    around: Surroundings
    _pins: list[tuple[Store, str]] = field(default_factory=list)

    def run(self) -> Version:
        """Make the table; its first version.

        Raises
        ------
        AlreadyExistsError
            There is a table in the target.
        """
        log = VersionLog(self.target, self.around.sleep)
        if log.numbers():
            raise _taken(self.target)
        try:
            first = self._first_version()
            landed = log.claim(first)
        except NotWrittenError:  # after any other failure the first version may be there
            self._let_go()
            raise
        if not landed:
            self._let_go()
            raise _taken(self.target)
        log.publish_hint(first)
        return first

    def _first_version(self) -> Version:
        """Pin what is to be shared and describe the clone; nothing is left behind where that is refused."""
        try:
            return self._described(str(self.around.new_id()))
        except LakeError:
            self._let_go()
            raise

    def _described(self, table_id: str) -> Version:
        parent = self.parent
        root, uri = numbered_root(self.source.uri, parent.roots)
        told = {
            "clone": self.target.uri,
            "created_at": self.around.microseconds(),
            "writer_id": self.around.writer_id,
        }
        pin = Pin(line=parent.line, version=parent.version, table_id=table_id)
        pinned = self._pinned(pin, self.source.home, "", told)
        main = self.newest()
        require_forkable(main, parent.line, parent.version)
        nearest = CloneSource(
            root=root,
            table_id=parent.table_id,
            line=parent.line,
            version=parent.version,
            pinned=pinned,
        )
        further = [
            self._pinned_further(one, table_id, told) for one in parent.cloned_from if one.root != root
        ]
        text = json.dumps({"clone": self.target.uri, "table_id": table_id}, sort_keys=True).encode()
        line = self._line(main, text, claim=pinned)
        return replace(
            _sharing(parent, root),
            table_id=table_id,
            commit_id=str(self.around.new_id()),
            committed_at=max(self.around.microseconds(), parent.committed_at + 1),
            writer_id=self.around.writer_id,
            summary={
                "cloned_from": uri,
                "from_branch": name_of_line(main, parent.line),
                "from_version": parent.version,
            },
            next_row_id=line * LINE_IDS,
            next_fragment_id=line * LINE_IDS,
            required_features=(parent.required_features - {"expired-versions"}) | {EXTERNAL_FEATURE},
            roots={**parent.roots, root: uri},
            cloned_from=(nearest, *further),
        )

    def _line(self, main: Version, text: bytes, *, claim: bool) -> int:
        """The line the clone goes on as: taken in the source, or one that no row it shares is of."""
        if claim:
            return claim_line(self.source, line_of(main.next_row_id), text)
        return _highest_line(self.source, main, self.parent) + 1

    def _pinned(self, pin: Pin, store: Store, folder: str, told: dict[str, object]) -> bool:
        self._pins.append((store, folder + pin.path))
        return pin.write(store, told, folder)

    def _pinned_further(self, source: CloneSource, table_id: str, told: dict[str, object]) -> CloneSource:
        """Pin what the source was itself cloned from: its own pin there may be released any day.

        That pin is looked for after ours was made: while one of the two is there, nothing is collected.
        """
        if not source.pinned:
            return source
        store, folder = self.source.root_store(source.root)
        theirs = Pin(line=source.line, version=source.version, table_id=self.parent.table_id)
        ours = replace(theirs, table_id=table_id)
        pinned = self._pinned(ours, store, folder, told) and theirs.is_there(store, folder)
        return replace(source, pinned=pinned)

    def _let_go(self) -> None:
        """Remove the pins of a clone that certainly does not exist; one that stays keeps files, nothing worse."""
        for store, path in self._pins:
            with suppress(LakeError):
                store.delete(path)


def _taken(target: Store) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is a table at {target.uri} already", fix="clone to an empty place")


def _highest_line(source: Store, main: Version, parent: Version) -> int:
    """A line that no row of the version, and none main knows of, lies above.

    A line that was merged into a merged one is known by its claim, or by fragments taken over as they are.
    """
    claimed: list[int] = []
    with suppress(UnsupportedError):  # a place that cannot be listed
        claimed = [number for info in source.list(LINES) if (number := line_number(info.path)) is not None]
    lines: Iterable[int] = (
        0,
        *claimed,
        *(line_of(reference.last_fragment_id) for reference in parent.manifests),
        *(line_of(one.next_row_id) for one in (main, parent)),
        *(line for one in (main, parent) for line in one.merges),
        *(entry.line for entry in main.branches.values()),
    )
    return max(lines)


def _sharing(parent: Version, root: int) -> Version:
    """The version as the first of a table at another root: without a past, what was the table's own outside."""

    def outside(path: str) -> str:
        return path if is_external(path) else external_path(root, path)

    keys = parent.key_index
    return replace(
        parent,
        version=1,
        parent=None,
        operations=(),
        sequences={},
        refs={},
        horizon=0,
        history=(),
        origin=None,
        branches={},
        merges={},
        manifests=tuple(map(partial(_shared_manifest, root), parent.manifests)),
        indexes=tuple(
            replace(entry, shards=tuple(replace(shard, path=outside(shard.path)) for shard in entry.shards))
            for entry in parent.indexes
        ),
        key_index=None if keys is None else keys.renamed(lambda path, _size: outside(path)),
    )


def _shared_manifest(root: int, reference: ManifestReference) -> ManifestReference:
    """The manifest where it is, or, inline, with the paths of its files written anew (MAN-8)."""
    if reference.path is not None:
        path = reference.path if is_external(reference.path) else external_path(root, reference.path)
        return replace(reference, path=path)
    made = inline_manifest(placed_in(decode_manifest(reference.body or b"", reference), root))
    return replace(reference, size=made.size, crc=made.crc, body=made.body)
