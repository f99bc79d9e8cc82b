"""Keys of the artifacts that the flows show in the Prefect UI."""

import re


def artifact_key(*parts: str) -> str:
    """`("loss", "first", "stage1")` → `loss-first-stage1`: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
