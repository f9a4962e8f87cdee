"""The executable model of a table's identity rules (spec/identity.md): pure Python, no storage, no Arrow.

``state`` is what a version holds, ``effects`` what operations mean on plain rows, ``planning`` how they become
physical changes, ``rebase`` how those follow other commits, ``table`` the commit protocol, ``oracle`` the
serial truth it is all compared with, ``checks`` the invariants. Only the decisions are shared with the product:
:mod:`lake_format.conflicts` and its matrix, which is what the model puts to the test.
"""
