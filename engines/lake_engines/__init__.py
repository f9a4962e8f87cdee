"""The default engine: scan, row access, search and index build over lake-format tables."""
