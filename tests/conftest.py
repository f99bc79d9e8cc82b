"""What every test may use: a store on a temporary folder, and the shared reference data where it is at hand."""

import os
from pathlib import Path

import pytest

from tinygptv.artifacts import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real photographs, annotations and golden tensors, which lie beside the checkout and are never part of it."""
    folder = Path(__file__).resolve().parent.parent.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local workdir."""
    return Store(str(tmp_path / "workdir"))
