"""Upkeep that reads and writes rows: fragments written anew, stored bytes checked."""
