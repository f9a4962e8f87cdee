"""Tables published as Iceberg's: metadata of Iceberg beside the table, over its own files; nothing is copied.

Start at :mod:`.publishing`.
"""

from lake_connectors.iceberg.publication.publishing import Publication, publish

__all__ = ["Publication", "publish"]
