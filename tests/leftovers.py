"""Which objects of a store a table's newest version needs, and which are left over."""

from __future__ import annotations

import lake_format as lake
from lake_format.store import Store

COLLECTED = ("data/", "_lake/indexes/", "_lake/manifests/", "_lake/keys/")


def left_over(store: Store, table: lake.Table) -> list[str]:
    """Objects that nothing of the version names; to be asked when it is the only one kept."""
    version = table.snapshot.version
    needed = set(table.inspect.files().column("path").to_pylist())
    needed |= {shard.path for index in version.indexes for shard in index.shards}
    needed |= {one.path for one in version.manifests if one.path is not None}
    needed |= {str(record["key_hashes_at"]) for record in version.operations if record.get("key_hashes_at")}
    needed |= set(version.key_index.paths()) if version.key_index is not None else set()
    return sorted(
        info.path for info in store.list("") if info.path.startswith(COLLECTED) and info.path not in needed
    )
