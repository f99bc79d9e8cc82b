"""Benchmarks and models → answers → scores."""
