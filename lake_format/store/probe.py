"""A store put to the test before a table trusts it: one that overwrites what it should refuse is found out.

Commits rest on create-if-absent alone. Some servers that speak S3 take the condition without a word and
overwrite, which would lose commits silently; so the first object of a table is created in a way that shows it.
"""

from __future__ import annotations

from lake_format.errors import AlreadyExistsError, NotWrittenError, StorageError, UnsupportedError
from lake_format.store.base import Store

__all__ = ["create_first"]


def create_first(store: Store, path: str, data: bytes) -> None:
    """Create an object, then try to create it again with the same bytes, which a sound store refuses.

    Two requests instead of one; meant for the first object of a table. A store that does not refuse has
    overwritten the object with what it held, so that nothing is lost.

    Raises
    ------
    AlreadyExistsError
        The path was taken; nothing is changed.
    UnsupportedError
        The store does not refuse; the object stays where it is, and no table should be kept there.
    """
    store.create(path, data)
    try:
        store.create(path, data)
    except AlreadyExistsError:
        return
    except NotWrittenError as error:  # said of the second request; the first one stands
        raise StorageError(error.what, fix=error.fix) from error
    raise UnsupportedError(
        f"{store.uri} does not refuse to create an object that exists: concurrent commits would be lost",
        fix="use a store with conditional writes (If-None-Match), or a newer version of this one",
    )
