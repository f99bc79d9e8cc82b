"""Columns with millions of rows: Arrow, DuckDB, hashes, and groups of equal or similar values."""
