"""Golden tables: small tables that are committed and must stay readable; see README.md beside this."""
