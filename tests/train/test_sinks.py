"""Curves in TensorBoard and Weights & Biases: every step once, and a sink that fails stops nothing."""

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.small import small_recipe
from tinygptv.definitions.hardware import Hardware
from tinygptv.train.job import Job, read_metrics
from tinygptv.train.metrics import Metrics, StepResult
from tinygptv.train.sinks import TENSORBOARD, WANDB

PROFILE = Hardware(about="test", device="cpu", ranks=1, micro_batch_size=1, precision="fp32", zero_stage=0)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    recipe = small_recipe(tmp_path)
    return Job(
        stage=recipe.stages[0],
        model=recipe.model,
        lora=None,
        seed=1,
        hardware=PROFILE,
        workdir=str(tmp_path),
        mixture="mixtures/m@1",
        previous=None,
        inherits=[],
    )


@pytest.fixture
def metrics_file(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / ".drafts" / "runs" / "mine" / "stage1@0a"
    folder.mkdir(parents=True)
    return folder / "metrics.jsonl"


def result(loss: float) -> StepResult:
    return StepResult(
        loss=loss, losses={"words": loss}, terms=4, tokens=8, samples=2, rate=1e-3, grad_norm=None, seconds=0.5
    )


def write(metrics: Metrics, *steps: int, offset: float = 0.0) -> None:
    """Steps, counted from 0, with their number and `offset` as the loss."""
    for step in steps:
        metrics.write(step, step, result(step + offset))


def train_twice(job: Job, metrics_file: Path) -> None:
    """Five steps, of which a crash leaves no checkpoint after the third; then on to the end, and one step back."""
    first = Metrics(job, metrics_file, 0)
    write(first, 0, 1, 2, 3, 4)
    first.close()
    second = Metrics(job, metrics_file, 3)
    write(second, 3, 4, 5, offset=0.5)
    second.rewind(5)
    write(second, 5, 6, offset=0.75)
    second.close()


def test_tensorboard_shows_every_step_once_also_of_a_run_that_went_back(
    job: Job, metrics_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TENSORBOARD, str(tmp_path / "board"))
    train_twice(job, metrics_file)
    shown = EventAccumulator(str(tmp_path / "board" / "mine" / "stage1@0a"))
    shown.Reload()
    expected = [(row["step"], row["loss"]) for row in read_metrics(metrics_file)]
    assert expected == [(1, 0), (2, 1), (3, 2), (4, 3.5), (5, 4.5), (6, 5.75), (7, 6.75)]
    for tag in ("loss", "losses/words"):
        assert [(scalar.step, scalar.value) for scalar in shown.Scalars(tag)] == expected
    assert {"lr", "samples_per_second", "peak_memory_bytes"} < set(shown.Tags()["scalars"])
    assert not {"grad_norm", "step", "batch"} & set(shown.Tags()["scalars"])


def test_wandb_gets_every_step_once_in_a_run_that_is_found_again(
    job: Job, metrics_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    sent: list[int | str] = []

    def init(**settings: Any) -> SimpleNamespace:
        begun.append(settings)
        return SimpleNamespace(log=lambda row, step: sent.append(step), finish=lambda: sent.append("finished"))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    monkeypatch.setenv(WANDB, "small")
    train_twice(job, metrics_file)
    assert sent == [1, 2, 3, 4, 5, "finished", 6, 7, "finished"]
    assert {(run["project"], run["name"], run["resume"]) for run in begun} == {("small", "mine/stage1@0a", "allow")}
    assert len({run["id"] for run in begun}) == 1


def test_a_sink_that_fails_is_named_once_and_stops_nothing(
    job: Job, metrics_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(TENSORBOARD, str(tmp_path / "file" / "below"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv(WANDB, "small")
    with caplog.at_level(logging.WARNING):
        train_twice(job, metrics_file)
    assert len(read_metrics(metrics_file)) == 7
    named = [record.getMessage().split(" gets no more metrics: ")[0] for record in caplog.records]
    assert named == ["TensorBoard", "Wandb"] * 2


def test_nothing_is_switched_on_by_itself(
    job: Job, metrics_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TENSORBOARD, raising=False)
    monkeypatch.delenv(WANDB, raising=False)
    train_twice(job, metrics_file)
    assert {path.name for path in metrics_file.parent.iterdir()} == {"metrics.jsonl"}
