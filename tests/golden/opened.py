"""The golden table `open-layout`: every fragment one Parquet file, vectors among the other columns."""

from __future__ import annotations

import pyarrow as pa

from golden.making import Golden, simple_rows, vectors, with_nulls


def open_layout(golden: Golden) -> None:
    """Vectors of two kinds beside other columns, NULL vectors among them; an update that moved rows, a deletion."""
    rows = pa.concat_tables([simple_rows(12), simple_rows(4, 12)]).combine_chunks()
    half = with_nulls(vectors(16, 2, 9, "f2"), [1, 7, 15])
    rows = rows.append_column(pa.field("half", pa.list_(pa.float16(), 2)), half)
    rows = rows.set_column(2, "v", with_nulls(rows.column("v").combine_chunks(), [0, 5]))
    table = golden.create(rows.schema, **{"write.layout": "open"})
    table.append(rows.slice(0, 12)).append(rows.slice(12))
    assert table.update({"name": "moved"}, "id IN (2, 13)").strategy == "move"
    table.delete("id = 4")
    moved = rows.take([2, 13]).set_column(1, "name", pa.array(["moved", "moved"]))
    kept = [row for row in range(16) if row not in (2, 4, 13)]
    golden.expect(pa.concat_tables([rows.take(kept), moved]).combine_chunks(), [*kept, 2, 13], fragments=3)
