"""Turns → the exact text and tokens that a model reads."""
