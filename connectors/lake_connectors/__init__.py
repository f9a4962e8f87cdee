"""Bridges between lake-format tables and other programs: query engines, Iceberg, the command line."""
