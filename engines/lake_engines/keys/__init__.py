"""The key index: files of sorted key hashes beside the data, so that keys are found without reading key columns.

::

    layout ── bloom        the bytes of a run: filter, pages of hashes and ordinals, head
    run_writer, run_reader a run written front to back; keys looked up in one with few range reads
    finding                which live rows may have a key: hits of all runs, and rows that no run answers for
    merging                runs put together; a whole index built; keys that occur twice found

What is found is compared with the real key values by :mod:`lake_engines.changes.lookup`: nothing here decides that
two keys are equal.
"""
