"""The golden table `computed-columns`: columns that are computed from others, one of which was renamed since."""

from __future__ import annotations

import pyarrow as pa

import lake_format as lake
from golden.making import Golden, simple_rows


def computed_columns(golden: Golden) -> None:
    """Computed for rows that were there, rows that came, rows of a writer who did not know, and rows that changed."""
    data = simple_rows(24)
    table, stale = golden.create(data.schema, **{"write.update-strategy": "patch"}), golden.open()
    table.append(data.slice(0, 8)).add_column("upper", values=lake.sql("upper(name)"), computed=True)
    table.add_column("far", pa.int32(), lake.sql("id * 10 - 5"), nullable=False, computed=True)
    stale.append(data.slice(8, 8))  # planned before the columns were there
    table.refresh().rename_column("name", "$1").append(data.slice(16).rename_columns(["id", "$1", "v"]))
    table.update({"$1": "patched"}, "id IN (2, 10)")
    names = ["patched" if row in (2, 10) else None if row % 4 == 3 else f"name {row}" for row in range(24)]
    rows = data.set_column(1, "$1", pa.array(names))
    rows = rows.append_column("upper", pa.array([name and name.upper() for name in names]))
    far = pa.array([row * 10 - 5 for row in range(24)], pa.int32())
    golden.expect(
        rows.append_column(pa.field("far", pa.int32(), False), far),
        range(24),
        fragments=3,
        computed={"upper": ["upper($1)", ["$1"]], "far": ["($1 * 10) - 5", ["id"]]},
    )
