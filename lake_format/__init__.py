"""lake-format: versioned vector tables over Parquet and Vortex files."""
