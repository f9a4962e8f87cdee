"""Every cell of the conflict matrix on a real table: one operation is committed while another is on its way.

What each operation calls and what it means is in :mod:`.row_samples`, :mod:`.column_samples` and
:mod:`.upkeep_samples`; the table they meet on in :mod:`.table`; the meeting, and what the matrix says about it, in
:mod:`.meeting`.
"""
