"""Orchestration only: order, retries, limits, run names and artifacts. The work is in `tinygptv/`."""

import logging

# Prefect shows on a run's page what this logger lets through, and leaves its level alone.
logging.getLogger("tinygptv").setLevel(logging.INFO)
