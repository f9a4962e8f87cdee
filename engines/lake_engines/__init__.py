"""The default engine: scan, row access, search and index build over lake-format tables."""

from lake_engines.engine import DefaultEngine

__all__ = ["DefaultEngine"]
