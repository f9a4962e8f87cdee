"""Changes of rows: which rows an operation concerns, which files it writes, and what it costs.

::

    request ─ planning ─┬─ matching   rows of a filter, or
                        ├─ source, lookup   rows handed in, and the rows that have their keys
                        ├─ assignments, merging, rekeying   new values; new keys, known to be free
                        ├─ placing ── costs   rewrite a column group, lay a patch over it, or move rows
                        └─ whole_rows   rows handed in whole: written as they are, while their keys are looked up

Rows fetched by their key (getting) are found the same way. Nothing here commits; :mod:`lake_format.row_changes` does.
"""

from __future__ import annotations

from lake_engines.changes.carrying import carry_rows
from lake_engines.changes.getting import get_rows
from lake_engines.changes.planning import explain_rows, plan_rows
from lake_engines.changes.source import StagedRows

__all__ = ["StagedRows", "carry_rows", "explain_rows", "get_rows", "plan_rows"]
