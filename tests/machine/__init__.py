"""Random histories of a table against a model in plain Python.

Operations (:mod:`machine.operations` and its neighbours) are small values: each says what it calls and what it means.
:mod:`machine.world` runs them by several writers, lets rivals in between plan and commit, and judges what came of it.
To add an operation, write its class and add it to ``OPERATIONS`` of its module; nothing else needs to change.
"""
