"""Cost is measured in a separate process and covers only that process."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.release.tiny import adapted_model, write_release
from tinygptv.errors import LaunchError
from tinygptv.models.lora import merge_lora
from tinygptv.release.measure import measure


def test_memory_and_speed_are_those_of_the_measured_process(tmp_path: Path) -> None:
    model = adapted_model()
    merge_lora(model.language_model)
    folder = write_release(tmp_path / "release", model)
    ballast = np.ones(1_500_000_000, dtype=np.uint8)  # this process grows by 1.5 GB; its child must not report them
    cost = measure(folder)
    assert ballast[-1] == 1
    assert 50e6 < cost.before_loading_bytes <= cost.peak_bytes < 1.2e9
    assert cost.tokens_per_second > 1


def test_a_failure_of_the_measured_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(LaunchError, match="failed with exit code 1"):
        measure(tmp_path)
