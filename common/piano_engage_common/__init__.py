"""What tap and target share: the DuckDB connection, progress, exit codes."""
