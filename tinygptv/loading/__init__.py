"""What `catalog` is built from: YAML with line numbers, explained mistakes, and checks between definitions."""
