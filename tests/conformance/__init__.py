"""One suite for every engine: the same tables, the same questions, and what reached the table counted at the store.

``engine`` is what an engine under test brings, ``engines/`` the engines, ``tables`` the tables, ``imported`` one of
Iceberg's, ``answers`` how answers are compared, ``mistakes`` what is asked in vain, ``matrix`` the page made of what
each engine claims; every claim is held to by a test. A new engine is one module in ``engines/`` and a line in
``engines/__init__.py``.
"""
