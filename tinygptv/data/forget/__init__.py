"""Takedowns: what must not be used any more, and where it is."""
