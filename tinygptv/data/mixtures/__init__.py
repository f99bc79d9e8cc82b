"""Filtered shards and annotations → one table of samples, and the order in which training draws from it."""
