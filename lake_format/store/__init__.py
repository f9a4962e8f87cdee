"""Where bytes live: one thin interface over local disk, memory and object stores.

Start at :mod:`.base` for the interface and at :func:`open_store` for how one is made from a URI.
"""

from lake_format.store.base import ByteRange, ObjectInfo, ObjectWriter, Store
from lake_format.store.opening import forget_memory, open_store
from lake_format.store.paths import check_path
from lake_format.store.ranges import read_coalesced

__all__ = [
    "ByteRange",
    "ObjectInfo",
    "ObjectWriter",
    "Store",
    "check_path",
    "forget_memory",
    "open_store",
    "read_coalesced",
]
