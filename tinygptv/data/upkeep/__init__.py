"""Finished artifacts, checked and repaired."""
