"""Manifests and scores → HTML pages. Scores are computed in `evaluate/`."""
