"""The command line over Iceberg tables: imported, brought to later snapshots, and mistakes told."""

from __future__ import annotations

from pathlib import Path

from iceberg_samples import embedded, filled

from cli.helpers import Run


def test_an_iceberg_table_is_imported_and_followed(tmp_path: Path, cli: Run) -> None:
    source = filled(tmp_path / "source", embedded(0, 30))
    table = tmp_path / "items"
    done = cli("import-iceberg", source.metadata_location, table, "--vector", "embedding=8")
    assert done.code == 0, done.err
    assert done.out.startswith("imported 30 rows")
    early = source.current_snapshot().snapshot_id
    source.append(embedded(30, 10))
    done = cli("refresh-iceberg", source.metadata_location, table)
    assert done.out.startswith("version 2, 40 rows"), done.err
    assert cli("refresh-iceberg", source.metadata_location, table).out.startswith("version 2, 40 rows")
    back = cli("refresh-iceberg", source.metadata_location, table, "--snapshot", str(early))
    assert back.out.startswith("version 3, 30 rows")
    near = cli("search", table, "--vector", str([1.0] * 8), "--k", "3", "--allow-external", source.location())
    assert near.code == 0, near.err
    assert "COLUMN=DIMENSION" in cli("import-iceberg", source.metadata_location, "x", "--vector", "a=b").err
    assert "no Iceberg table" in cli("refresh-iceberg", str(tmp_path), table).err
