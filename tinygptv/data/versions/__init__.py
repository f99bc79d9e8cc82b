"""Versions of a curated source: refreshed, checked, published, described."""
