"""Behind `catalog`: YAML read with its line numbers, mistakes explained, definitions checked against each other."""
