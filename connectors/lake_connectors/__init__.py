"""Bridges between lake-format tables and other programs: DuckDB, the command line."""
