"""What can be said in YAML: frozen, strict schemas. Pure: no torch, no prefect, no I/O."""
