"""Columns of millions of rows: Arrow, DuckDB, hashes, groups of equal or similar values."""
