"""Which tests are quick: `pytest -m quick` answers a developer in less than a minute on two cores.

A test is quick unless its file or one of its fixtures is listed here. A quick test that starts a process fails and says
that its file belongs in the list, as do files whose tests wait or compute for seconds.
"""

import multiprocessing.process
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

TESTS = Path(__file__).parent

SLOW_FIXTURES = frozenset({"corpus", "prefect_server", "s3_server", "faulty_s3", "web"})
"""Fixtures that start a server."""

SLOW = (
    "train/test_worker.py",
    "fuzz",
    "flows",
    "test_journey.py",
    "test_journey_versions.py",
    "train/planning",
    "train/launch",
    "data/shards/test_remote.py",
    "data/fetch/test_fetching.py",
    "infra",
    "store/test_s3.py",
    "data/mixtures/test_sampling_order.py",
    "data/faults",
    "data/tables/test_dialects.py",
    "shapes/test_bootstrap.py",
    "models/weights/test_adapter.py",
    "data/versions",
    "benchmarks",
    "test_readme_example.py",
    "golden",
    "models/weights/test_files.py",
    "train/encoding",
    "data/shards/test_content_cache.py",
    "models/test_nf4.py",
    "models/weights/test_loading.py",
    "doctor",
    "release/test_measure.py",
    "models/test_adapter_library.py",
    "data/annotations/test_broken.py",
    "report/test_report.py",
    "data/upkeep/test_artifact_access.py",
    "train/test_stage.py",
    "judging",
    "train/test_freezing.py",
    "data/fetch/native/test_kept_connections.py",
    "data/filters/test_duplicates.py",
    "train/test_allocator.py",
    "data/annotations/test_annotations.py",
    "data/annotations/test_samples.py",
    "data/tables/test_readers.py",
    "data/filters/test_filtering.py",
    "data/forget/test_forget.py",
    "cli",
    "runs/test_exposure.py",
    "data/filters/test_matches.py",
    "release/test_convert.py",
    "evaluate/test_texts.py",
    "evaluate/test_scores.py",
    "data/tables/test_real_tables.py",
    "models/weights/test_published.py",
    "data/download",
    "data/columns/test_arrow.py",
    "data/batches/test_loading.py",
    "data/batches/test_shared_memory.py",
    "store/test_artifacts.py",
    "test_architecture.py",
)
"""Files and folders of `tests/`, the longest first. The suite runs in this order, so that no long file is left for its
end, when the other process has nothing to do."""


def is_slow(path: Path) -> bool:
    """Whether a file, or a folder that it is in, is listed as slow."""
    return _rank(path) < len(SLOW)


def mark(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Mark those that are quick; returns all items, slow files first."""
    for item in items:
        if not (is_slow(item.path) or SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ()))):
            item.add_marker("quick")
    return sorted(items, key=lambda item: _rank(item.path))


@contextmanager
def no_process() -> Iterator[None]:
    """While the context lasts, starting a process is an AssertionError."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a quick test starts no process: name its file in SLOW of tests/quick.py")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "_execute_child", refuse)
        patch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
        yield


def _rank(path: Path) -> int:
    names = [str(parent) for parent in (path.relative_to(TESTS), *path.relative_to(TESTS).parents)]
    return next((rank for rank, slow in enumerate(SLOW) if slow in names), len(SLOW))
