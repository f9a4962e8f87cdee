"""The golden table `merged-branch`: a branch with commits of its own that was merged into a main that went on."""

from __future__ import annotations

import pyarrow as pa

import lake_format as lake
from golden.making import Golden, simple_rows


def merged_branch(golden: Golden) -> None:
    """Rows of both lines, changes of the branch, a column that main got meanwhile; the branch is still there."""
    rows = simple_rows(9)
    table = golden.create(rows.schema).append(rows.slice(0, 5))
    table.create_branch("work")
    work = lake.open(golden.uri, branch="work", surroundings=golden.surroundings)
    work.append(rows.slice(5, 2)).update({"name": "by work"}, "id = 1")
    work.delete("id = 4")
    table.refresh().append(rows.slice(7, 2)).add_column("n", pa.int8(), 3)
    table.merge_branch("work")
    work.refresh().append(simple_rows(1, 100))
    order = [0, 2, 3, 7, 8, 5, 6, 1]
    expected = rows.take(order)
    names = pa.array([*expected.column("name").to_pylist()[:-1], "by work"])
    expected = expected.set_column(1, "name", names).append_column("n", pa.array([3] * 8, pa.int8()))
    golden.expect(expected.combine_chunks(), [0, 2, 3, 5, 6, 1 << 40, 1 + (1 << 40), 1], fragments=4)
