"""Schema evolution where rows are: old files read as the present schema, new column groups beside old ones.

`projection` turns arrays of a file into arrays of the current field; `expressions` and `sources` say what values a
column gets; `filling` writes them as one new column group per fragment; `placing` carries groups over to where
their rows lie now. What the format says about it is `spec/evolution.md`.
"""

from __future__ import annotations
