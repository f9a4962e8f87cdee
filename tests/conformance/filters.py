"""Conditions every engine is asked, in SQL that all of them take; some know another way to write one."""

from __future__ import annotations

FILTERS = (
    "id < 100",
    "id BETWEEN 50 AND 60",
    "id IN (1, 2, 417)",
    "NOT id = 3",
    "small = 2 OR category = 'a'",
    "NOT (small = 2 AND category = 'a')",
    "price > 50",
    "price <= 0",
    "price = 0",
    "NOT price > 50",
    "price IS NULL",
    "weight > 0.2",
    "title = 'x'",
    "title >= 'x'",
    "title IS NOT NULL",
    "title = 'Ärger'",
    "category IN ('a', 'c')",
    "category <> 'a'",
    "category NOT IN ('a', 'b')",
    "day = DATE '2024-01-05'",
    "day > DATE '2024-02-01'",
    "moment >= TIMESTAMP '2024-03-31 02:00:00'",
    "cost > 1.05",
    "cost = -2",
    "flag",
    "NOT flag",
    "flag IS NULL",
    "vec IS NULL",
    "id > 100 AND id < 300 AND (category = 'b' OR price > 20)",
)
ODD_FILTERS = ("title LIKE '%x%'", "lower(title) = 'ärger'", "id % 7 = 3")
"""Conditions that no table answers itself."""
