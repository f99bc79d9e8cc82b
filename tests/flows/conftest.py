"""One temporary Prefect server for all flow tests: starting it takes ten seconds."""

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Flows called in this process run against a temporary server."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
