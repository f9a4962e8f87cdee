"""The side of a table that writes fragments anew: compaction, by threads of this process or by many processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import closing
from threading import Lock

import numpy as np

from lake_format.clustering import Clustering, clustering_of
from lake_format.compaction import (
    CompactionReport,
    CompactionTarget,
    RewriteRequest,
    Rewritten,
    RewrittenGroup,
    choose_fragments,
)
from lake_format.engine import Progress
from lake_format.errors import CorruptionError, InvalidInputError
from lake_format.model import Fragment
from lake_format.open_layout import not_open
from lake_format.parallel import as_finished
from lake_format.parts import (
    CompactionTask,
    Part,
    decode_part,
    decode_task,
    encode_part,
    encode_task,
    unplaced,
)
from lake_format.properties import integer_property
from lake_format.repairs import live_row_ids
from lake_format.row_ids import encode_row_ids
from lake_format.schema import field_by_id
from lake_format.snapshot import Snapshot
from lake_format.table_keys import TableKeys
from lake_format.transaction import REFUSALS, YieldedError

__all__ = ["Group", "TableCompaction", "positive"]

_MOST_WORKERS = 4
Group = tuple[Fragment, ...]
"""Fragments of one partition that are written anew together."""


class TableCompaction(TableKeys):
    """Fewer, whole fragments; users' work always goes first."""

    def compact(
        self,
        target_rows: int | None = None,
        *,
        target_bytes: int | None = None,
        deleted_share: float = 0.1,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> CompactionReport:
        """Put small fragments together, and write those anew in which many rows are deleted.

        In a table of ``write.layout`` ``open`` also those that are not one Parquet file which anybody can read.

        Row ids stay, so indexes need nothing and answer as before. Rows keep their order among each other; the
        new fragments come after the others in a scan. Groups of fragments are committed as they are finished:
        what is done stays done if the rest is interrupted. Deletes and updates made meanwhile hold for the new
        fragments; a group that somebody rewrote or replaced meanwhile is left alone and counted as ``yielded``.

        Parameters
        ----------
        target_rows, target_bytes
            The most a new fragment should have; by default the table's ``write.fragment-rows`` and
            ``write.fragment-bytes``. Fragments below half of both are put together.
        deleted_share
            From this share of deleted rows on a fragment is written anew, above 0 and at most 1.
        workers
            How many groups are written at a time, each by a thread that takes 60 to 200 MiB of memory; by default
            one for each processor, at most four. Many machines share the work by :meth:`plan_compaction`.
        progress
            Called with ``("compact", rows done, rows in all)``.

        Raises
        ------
        InvalidInputError
            A target or number that is not positive, or a share out of range.
        """
        self._require_writable()
        self._require_alone("compact")
        at_once = positive("workers", workers, min(_processors(), _MOST_WORKERS))
        groups = self._worth_compacting(target_rows, target_bytes, deleted_share)
        report = self._rewrite(groups, "compact", workers=at_once, progress=progress)
        self._settle_key_index()
        return report

    def plan_compaction(
        self,
        target_rows: int | None = None,
        *,
        target_bytes: int | None = None,
        deleted_share: float = 0.1,
    ) -> list[bytes]:
        """Say what :meth:`compact` would do, as tasks that may be done anywhere at the same time.

        Each task is a few bytes for :meth:`compact_part`, in this process or another; :meth:`commit_compaction` puts
        in place what came of them. Nothing is written here.

        Parameters
        ----------
        target_rows, target_bytes, deleted_share
            As for :meth:`compact`.
        """
        self._require_writable()
        self._require_alone("plan_compaction")
        groups = self._worth_compacting(target_rows, target_bytes, deleted_share)
        version = self._snapshot.version
        return [
            encode_task(
                CompactionTask(
                    table_id=version.table_id,
                    version=version.version,
                    fragment_ids=tuple(fragment.fragment_id for fragment in group),
                )
            )
            for group in groups
        ]

    def compact_part(self, task: bytes) -> bytes:
        """Do one task of :meth:`plan_compaction`: write its rows anew. Nothing becomes visible.

        Returns
        -------
        bytes
            What was written, for :meth:`commit_compaction`. Empty where the fragments hold no live row.

        Raises
        ------
        InvalidInputError
            A task of another table, or of fragments that its version does not have.
        ExpiredError
            The version that the task was planned on has expired.
        """
        wanted = decode_task(task)
        snapshot = self._read_as_planned(wanted.version, wanted.table_id)
        sources = _fragments_of(snapshot, wanted.fragment_ids)
        done = self._rewritten(snapshot, sources, "compact")
        if not done.rewritten:
            return b""
        placed = [_with_row_ids(new, number) for number, new in enumerate(done.rewritten)]
        features = frozenset[str]().union(*(new.features for new in done.rewritten))
        return encode_part(snapshot.version, placed, features, wanted.fragment_ids)

    def commit_compaction(self, parts: Iterable[bytes]) -> CompactionReport:
        """Put what :meth:`compact_part` wrote in the places of the fragments it was made from, in one commit.

        May be called several times, with some of the parts each time. Parts whose fragments others rewrote or
        replaced meanwhile are counted as ``yielded``, and their files removed; so is the second of two parts of one
        task.

        Parameters
        ----------
        parts
            What :meth:`compact_part` returned.

        Raises
        ------
        InvalidInputError
            Parts of another table, or of rows to be appended.
        CorruptionError
            A part does not hold the rows of the fragments it would replace; nothing was committed.
        """
        self._require_writable()
        self._require_alone("commit_compaction")
        self.refresh()
        snapshots: dict[int, Snapshot] = {}
        groups = []
        for part in (decode_part(one) for one in parts if one):
            if part.version not in snapshots:
                snapshots[part.version] = self._read_as_planned(part.version, part.table_id)
            groups.append(_group_of(part, snapshots[part.version]))
        report = CompactionReport()
        self._land_groups(groups, report)
        self._settle_key_index()
        return report

    # --- inside -------------------------------------------------------------------------------------------

    def _worth_compacting(
        self, target_rows: int | None, target_bytes: int | None, deleted_share: float
    ) -> list[Group]:
        """The fragments of the newest version that are to be written anew, by what they become together."""
        properties = self.refresh().snapshot.version.properties
        target = CompactionTarget(
            rows=positive("target_rows", target_rows, integer_property(properties, "write.fragment-rows")),
            bytes=positive(
                "target_bytes", target_bytes, integer_property(properties, "write.fragment-bytes")
            ),
            deleted_share=_share(deleted_share),
        )
        fragments = self._snapshot.fragments
        chosen = choose_fragments(fragments, target, not_open(self._snapshot))
        return [tuple(fragments.fragment(index) for index in group) for group in chosen]

    def _rewrite(
        self,
        groups: Sequence[Group],
        kind: str,
        *,
        clustering: Clustering | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> CompactionReport:
        """Write groups of fragments anew, a few at a time, and commit them as they are finished.

        What was finished while others were committed shares the next commit. The files of groups that do not land
        are removed.

        Parameters
        ----------
        clustering
            The order to bring the rows of each group into, cut at the table's limits; None leaves one fragment of
            each group, in the table's own order.
        """
        report = CompactionReport()
        rows = sum(one.row_count - one.deleted_count for group in groups for one in group)
        told = _Told(kind, rows, progress)

        def work(wanted: Group) -> RewrittenGroup | None:
            snapshot = self.refresh().snapshot
            now = [snapshot.fragments.by_id(fragment.fragment_id) for fragment in wanted]
            sources = tuple(fragment for fragment in now if fragment is not None)
            if len(sources) < len(wanted) or not _can_order(snapshot, clustering):
                return None
            return self._rewritten(snapshot, sources, kind, clustering, told.of_group())

        def discard(group: RewrittenGroup | None) -> None:
            self._discard_groups([group] if group is not None else [])

        with closing(as_finished(work, groups, workers, discard)) as finished:
            for done in finished:
                report.yielded += sum(group is None for group in done)
                self._land_groups([group for group in done if group is not None], report)
        return report

    def _rewritten(
        self,
        snapshot: Snapshot,
        sources: Group,
        kind: str,
        clustering: Clustering | None = None,
        progress: Progress | None = None,
    ) -> RewrittenGroup:
        version = snapshot.version
        request = RewriteRequest(
            fragments=sources,
            clustering=clustering or clustering_of(version.properties, snapshot.schema),
            split=clustering is not None,
            progress=progress,
            new_id=self._around.new_id,
        )
        rewritten = self._engine.rewrite(snapshot, request)
        return RewrittenGroup(base=version, sources=sources, rewritten=rewritten, kind=kind)

    def _land_groups(self, groups: Iterable[RewrittenGroup], report: CompactionReport) -> None:
        """Put groups in the places of their fragments: those that were read in one version in one commit.

        Where others were in the way of one of several, each is tried on its own.
        """
        by_version: dict[int, list[RewrittenGroup]] = {}
        for group in groups:
            if group.rewritten:  # a fragment without live rows is no part of a table
                by_version.setdefault(group.base.version, []).append(group)
        waiting = deque(by_version.values())
        while waiting:
            now = waiting.popleft()
            try:
                self._commit(*(group.change for group in now), base=now[0].base)
            except YieldedError:
                if len(now) > 1:
                    waiting.extend([group] for group in now)
                    continue
                report.yielded += 1
                self._discard_groups(now)
            except REFUSALS:
                self._discard_groups([*now, *(group for later in waiting for group in later)])
                raise
            else:
                report.count(now)

    def _discard_groups(self, groups: Sequence[RewrittenGroup]) -> None:
        self._engine.discard_files(self._store, [file for group in groups for file in group.files])


class _Told:
    """How many rows several groups have written together, told to whoever asked."""

    def __init__(self, stage: str, total: int, progress: Progress | None) -> None:
        self._stage = stage
        self._total = total
        self._progress = progress
        self._done = 0
        self._lock = Lock()

    def of_group(self) -> Progress | None:
        """What one group is given to tell of its own rows."""
        if self._progress is None:
            return None
        before = 0

        def tell(_stage: str, done: int, _total: int) -> None:
            nonlocal before
            assert self._progress is not None
            with self._lock:
                self._done += done - before
                before = done
                self._progress(self._stage, self._done, self._total)

        return tell


def _can_order(snapshot: Snapshot, clustering: Clustering | None) -> bool:
    """Whether the columns of an order are there still: they may be dropped while groups are written."""
    wanted = () if clustering is None else clustering.field_ids
    return all(field_by_id(snapshot.schema, one) is not None for one in wanted)


def _fragments_of(snapshot: Snapshot, ids: Sequence[int]) -> Group:
    found = tuple(snapshot.fragments.by_id(one) for one in ids)
    here = tuple(fragment for fragment in found if fragment is not None)
    if not here or len(here) < len(found):
        raise InvalidInputError(
            f"version {snapshot.version.version} does not have all of the fragments {list(ids)}",
            fix="plan the compaction anew",
        )
    return here


def _with_row_ids(new: Rewritten, number: int) -> Fragment:
    return new.fragment.placed(number, row_id_sequence=encode_row_ids(new.row_ids))


def _group_of(part: Part, snapshot: Snapshot) -> RewrittenGroup:
    """A part as what was written of fragments, checked to hold their rows."""
    if part.replaces is None:
        raise InvalidInputError("a part holds rows to be appended", fix="hand it to commit_parts()")
    sources = _fragments_of(snapshot, part.replaces)
    ids = [fragment.row_ids() for fragment in part.fragments]
    live = np.concatenate([live_row_ids(fragment) for fragment in sources])
    if not np.array_equal(np.sort(np.concatenate(ids)), np.sort(live)):
        raise CorruptionError(
            f"a part does not hold the rows of the fragments {list(part.replaces)}, which it would replace"
        )
    return RewrittenGroup(
        base=snapshot.version,
        sources=sources,
        rewritten=tuple(
            Rewritten(fragment=unplaced(fragment), row_ids=one, features=part.features)
            for fragment, one in zip(part.fragments, ids, strict=True)
        ),
    )


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive(name: str, given: int | None, default: int) -> int:
    """The number given, or the default; InvalidInputError for anything but a whole number above 0."""
    if given is None:
        return default
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise InvalidInputError(f"{name} must be a positive whole number, not {given!r}")
    return given


def _share(given: float) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given <= 1:
        raise InvalidInputError(f"deleted_share must be above 0 and at most 1, not {given!r}")
    return float(given)
