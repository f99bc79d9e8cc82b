"""Orchestration only: order, retries, limits, run names and artifacts. The work is done in `tinygptv/`."""

import logging

# Prefect shows this logger's records on a run's page, but does not set its level.
logging.getLogger("tinygptv").setLevel(logging.INFO)
