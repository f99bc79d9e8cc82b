"""Schemas of the YAML definitions: frozen and strict. Pure: no torch, no prefect, no I/O."""
