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
    "test_journey.py",
    "flows",
    "docs/test_commands.py",
    "examples",
    "train/planning/test_estimate.py",
    "infra/test_stack.py",
    "store/test_s3.py",
    "train/launch/test_torchrun.py",
    "test_readme_example.py",
    "shapes/test_bootstrap.py",
    "data/shards/test_remote.py",
    "data/fetch/test_fetching.py",
    "train/launch/test_machines.py",
    "train/test_toy_objective.py",
    "models/test_kinds.py",
    "data/mixtures/test_sampling_order.py",
    "data/faults/test_process.py",
    "models/weights/test_adapter.py",
    "data/versions/test_refresh.py",
    "test_journey_versions.py",
    "benchmarks/test_gpu.py",
    "golden",
    "models/weights/test_files.py",
    "train/encoding",
    "data/shards/test_content_cache.py",
    "models/test_nf4.py",
    "models/weights/test_loading.py",
    "doctor/test_processes.py",
    "release/test_measure.py",
    "models/test_lora_without_bitsandbytes.py",
    "data/annotations/test_broken.py",
    "report/test_report.py",
    "data/versions/test_across_sources.py",
    "data/upkeep/test_artifact_access.py",
    "train/test_stage.py",
    "judging/test_shapes.py",
    "train/test_freezing.py",
    "data/tables/test_dialects.py",
    "data/fetch/native/test_kept_connections.py",
    "data/filters/test_duplicates.py",
    "data/batches/test_loading.py",
    "train/test_allocator.py",
    "infra/test_setup.py",
    "infra/test_lock.py",
    "cli/test_plan.py",
    "data/versions/test_card.py",
    "data/annotations/test_annotations.py",
    "data/annotations/test_samples.py",
    "train/planning/test_fitting.py",
    "data/tables/test_readers.py",
    "data/faults/test_network.py",
    "data/filters/test_filtering.py",
    "data/versions/test_checks.py",
    "judging/test_arrow.py",
    "train/planning/test_tracing.py",
    "data/forget/test_forget.py",
    "cli/test_main.py",
    "runs/test_exposure.py",
    "shapes/test_files.py",
    "data/filters/test_matches.py",
    "release/test_convert.py",
    "judging/test_journey.py",
    "evaluate/test_texts.py",
    "evaluate/test_scores.py",
    "data/tables/test_real_tables.py",
    "models/weights/test_published.py",
    "cli/test_dataset.py",
    "data/download/test_download.py",
    "data/columns/test_arrow.py",
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
