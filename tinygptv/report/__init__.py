"""Manifests and scores → pages for people. Numbers are made elsewhere."""
