"""What a step's line says of the machine."""

from pathlib import Path

import pytest

from tests.train.small import small_recipe
from tinygptv.definitions.hardware import Hardware
from tinygptv.train.job import Job, read_metrics
from tinygptv.train.metrics import Metrics, StepResult

PROFILE = Hardware(about="test", device="cpu", ranks=2, micro_batch_size=1, precision="fp32", zero_stage=0, tflops=1e-6)
STEP = StepResult(
    loss=1.0, losses={"words": 1.0}, terms=4, tokens=80, samples=2, rate=1e-3, grad_norm=None, seconds=0.5
)


@pytest.mark.parametrize(
    ("known", "tflops", "utilisation"),
    [
        ({"flops_per_sample": 50_000.0, "flops_per_token": 5_000.0}, 1e-6, 0.5),
        ({"flops_per_sample": 50_000.0, "flops_per_token": 5_000.0}, None, None),
        ({}, 1e-6, None),
    ],
)
def test_utilisation_counts_what_images_and_tokens_cost(
    tmp_path: Path, known: dict[str, float], tflops: float | None, utilisation: float | None
) -> None:
    recipe = small_recipe(tmp_path)
    job = Job(
        stage=recipe.stages[0],
        model=recipe.model,
        lora=None,
        seed=1,
        hardware=PROFILE.model_copy(update={"tflops": tflops}),
        workdir=str(tmp_path),
        mixture="mixtures/m@1",
        previous=None,
        inherits=[],
        **known,
    )
    metrics = Metrics(job, tmp_path / "metrics.jsonl", 0)
    metrics.write(0, 0, STEP)
    metrics.close()
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["utilisation"] == utilisation
