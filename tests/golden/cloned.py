"""The golden tables `pinned` and `clone`: a clone and its source, always written together."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

import pyarrow as pa

import lake_format as lake
from golden.making import OUTSIDE, ROOT, Golden, as_object, simple_rows, surroundings_of
from lake_format.store.local import LocalStore


class _Said:
    """A golden table's folder, which says that it lies where external roots of golden tables do."""

    def __init__(self, name: str) -> None:
        self._inner = LocalStore(ROOT / name)
        self.uri = f"{OUTSIDE}/{name}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _clone_and_source() -> int:
    """Write `clone` and `pinned` anew, each of which names the other; the version they share."""
    for name in ("pinned", "clone"):
        shutil.rmtree(ROOT / name, ignore_errors=True)
    source = Golden("pinned", surroundings_of("pinned"))
    first = simple_rows(300)
    table = lake.create(source.uri, first.schema, key="id", surroundings=source.surroundings)
    table.append(first)
    table.create_index("v")
    reference = as_object(table, table.snapshot.fragments.fragments(), source.surroundings)
    source.land(table, manifests=(reference,))
    table.refresh().append(simple_rows(3, 300)).delete("id = 301")
    shared = lake.open(f"{OUTSIDE}/pinned", store=_Said("pinned"), surroundings=source.surroundings)
    shared.clone("clone", store=_Said("clone")).append(simple_rows(2, 400))
    table.overwrite(simple_rows(2, 500))
    table.expire_versions()
    table.collect_garbage(dry_run=False, grace=timedelta(0))
    return shared.version


def pinned(golden: Golden) -> None:
    """A table after expiry and collection, which kept a version that the table `clone` shares."""
    golden.expect(simple_rows(2, 500), [303, 304], fragments=1, covered=0, pinned=_clone_and_source())


def clone(golden: Golden) -> None:
    """A clone of a version of the table `pinned`, with its index, key index and manifest object, and own rows."""
    shared = _clone_and_source()
    rows = pa.concat_tables([simple_rows(300), simple_rows(3, 300).take([0, 2]), simple_rows(2, 400)])
    golden.expect(
        rows.combine_chunks(),
        [*range(301), 302, 1 << 40, (1 << 40) + 1],
        fragments=3,
        covered=300,
        shared=shared,
    )
