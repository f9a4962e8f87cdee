"""Copies of tables in other places: backups, what is restored from them, and clones (spec/copies.md).

:mod:`.needs` says which objects a version needs, :mod:`.copying` brings objects from store to store,
:mod:`.inventory` knows what a backup holds; :mod:`.backup` and :mod:`.restoring` put them together.
:mod:`.cloning` makes a table that shares the files of another one.
"""
