"""What the flows share: one artifact key per thing shown in the UI."""

import re


def artifact_key(*parts: str) -> str:
    """`("loss", "first", "stage1")` → `loss-first-stage1`: all that Prefect's keys may hold."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
