"""Takedowns: what must not be used, and where it is stored."""
