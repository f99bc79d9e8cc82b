"""Orchestration only: order, retries, limits, run names and artifacts. The work is in `tinygptv/`."""
