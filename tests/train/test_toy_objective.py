"""An objective of one's own takes one file, in `toys/`: nothing in the package names it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.small import mix_pairs, small_recipe, small_run, write_backbones
from tests.train.toy_rank import OBJECTIVES
from tinygptv import catalog
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import RUN_SOURCE
from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DefinitionError
from tinygptv.store.artifacts import Manifest, Store
from tinygptv.train import objectives
from tinygptv.train.batches import open_loader
from tinygptv.train.engine import build_model
from tinygptv.train.job import JOB, METRICS, Job, read_metrics
from tinygptv.train.launch.torchrun import DeepSpeedLauncher
from tinygptv.train.objective import load_objective
from tinygptv.train.planning.estimate import StageEstimator
from tinygptv.train.stage import train_stage

HARDWARE = Hardware(
    about="one", device="cpu", ranks=1, threads_per_rank=1, micro_batch_size=3, precision="fp32", zero_stage=2
)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, OBJECTIVES])
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def trained(store: Store, folder: Path, **stage: Any) -> tuple[Manifest, Job, list[dict[str, Any]]]:
    """Four steps of a stage by one rank that takes the batch in pieces: what it left, its job, and its metrics."""
    content = small_recipe(folder).model_dump()
    content["stages"] = content["stages"][:1]
    content["stages"][0] |= stage
    content["stages"][0]["schedule"] |= {"steps": 4, "peak_lr": 1e-2}
    recipe = Recipe.model_validate(content)
    write_backbones(folder, recipe)
    launcher = DeepSpeedLauncher("tests.train.toy_rank")
    made = train_stage(store, small_run(recipe, HARDWARE), "toy", "stage1", mix_pairs(store), None, launcher)
    left = store.folder(made.artifact)
    return made, Job.model_validate_json((left / JOB).read_text()), read_metrics(left / METRICS)


def whole_batch(job: Job) -> dict[str, float]:
    """Each part of the first step's loss, its batch in one piece."""
    model, objective = build_model(job), load_objective(job.stage.objective)
    batch = open_loader(job, model.num_image_tokens).batch(0)
    losses = objective.losses(model, *objective.inputs(batch, torch.device("cpu"), torch.float32))
    return {part: mean.item() for part, (mean, _) in losses.items()}


@pytest.mark.usefixtures("toys")
def test_a_toy_objective_of_two_parts_is_trained_and_reports_both(store: Store, tmp_path: Path) -> None:
    _, job, rows = trained(store, tmp_path, objective="described_and_normed")
    assert len(rows) == 4
    for row in rows:
        described, normed = row["loss_parts"]["next_token"], row["loss_parts"]["image_norm"]
        assert row["loss"] == pytest.approx(described + 0.5 * normed)
        assert row["losses"] == {RUN_SOURCE: pytest.approx(row["loss"], abs=1e-5)}
    assert rows[0]["loss_parts"] == pytest.approx(whole_batch(job), rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.usefixtures("toys")
def test_a_toy_objective_without_a_decoder_neither_plans_nor_trains_one(store: Store, tmp_path: Path) -> None:
    _, job, rows = trained(store, tmp_path, objective="image_norm", trains=["connector.projections"])
    assert "loss_parts" not in rows[0]
    assert rows[0]["loss"] == pytest.approx(whole_batch(job)["image_norm"], rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not list(build_model(job).language_model.parameters())
    whole, toy = catalog.recipe("tinygptv_tiny"), small_recipe(tmp_path).model_dump()
    toy["stages"][0] |= {"objective": "image_norm", "trains": ["connector.projections"]}
    estimator = StageEstimator(Recipe.model_validate(toy), "stage1")
    assert estimator.parameters["language_model"] == 0
    assert StageEstimator(whole, "stage1").parameters["language_model"] > 0
    assert 0 < estimator.memory(HARDWARE).weights == 4 * sum(estimator.parameters.values())


@pytest.mark.usefixtures("toys")
def test_a_stage_cannot_train_what_its_objective_does_not_run(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match=r"trains\[1\]: 'language_model.norms' matches no parameter"):
        trained(store, tmp_path, objective="image_norm")


def test_an_objective_without_a_file_is_refused_with_the_nearest_name() -> None:
    content = catalog.recipe("tinygptv_tiny").model_dump()
    content["stages"][0]["objective"] = "next_tokens"
    with pytest.raises(ValueError, match=r"no 'next_tokens' in tinygptv/train/objectives/\. Did you mean 'next_token'"):
        Recipe.model_validate(content)
