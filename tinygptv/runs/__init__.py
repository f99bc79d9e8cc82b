"""Questions about whole runs: what each part of a recipe contributes, and who saw a sample."""
