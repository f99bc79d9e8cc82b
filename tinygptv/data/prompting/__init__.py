"""Turns → the exact text and tokens a model reads."""
