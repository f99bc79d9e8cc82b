"""What is said when a stage does not fit."""

from pathlib import Path

import pytest

from tests.train.small import small_recipe, small_run
from tinygptv.definitions.hardware import Hardware
from tinygptv.errors import DefinitionError, HandoffError
from tinygptv.store.artifacts import Outcome, Store
from tinygptv.train.launch.torchrun import RecordingLauncher
from tinygptv.train.planning.estimate import GIB, StageEstimator
from tinygptv.train.planning.fitting import HEADROOM, refuse_unfit, resolve_checkpointing
from tinygptv.train.stage import train_stage

GPU = Hardware(about="one", device="cuda", ranks=1, micro_batch_size=8, precision="fp32", zero_stage=2)
ONE_COMPONENT = {"components": [{"samples": 10_000}]}


@pytest.fixture(scope="module")
def estimator() -> StageEstimator:
    return StageEstimator(small_recipe(Path("/weights")), "stage2")


def refusal(estimator: StageEstimator, profile: Hardware) -> str:
    with pytest.raises(DefinitionError) as refused:
        refuse_unfit(estimator, profile, "mine")
    return str(refused.value)


def with_room_for(estimator: StageEstimator, **settings: object) -> Hardware:
    """A profile with exactly the memory that the stage needs under other settings."""
    needed = estimator.memory(GPU.model_copy(update=settings)).total
    return GPU.model_copy(update={"memory_gib": (needed + 1) / GIB})


def test_what_fits_is_let_through(estimator: StageEstimator) -> None:
    refuse_unfit(estimator, with_room_for(estimator), "mine")
    refuse_unfit(estimator, GPU, "mine")


@pytest.mark.parametrize(
    "settings",
    [
        {"micro_batch_size": 4},
        {"micro_batch_size": 1},
        {"gradient_checkpointing": True, "micro_batch_size": 1},
        {"gradient_checkpointing": True, "micro_batch_size": 1, "zero_stage": 3, "ranks": 2},
        {
            "gradient_checkpointing": True,
            "micro_batch_size": 1,
            "zero_stage": 2,
            "offload": "optimizer",
            "quantize_base": "nf4",
        },
    ],
)
def test_a_refusal_names_the_first_setting_that_fits(estimator: StageEstimator, settings: dict[str, object]) -> None:
    told = refusal(estimator, with_room_for(estimator, **settings))
    assert told.startswith("infra/hardware/mine.yaml: stage2 needs ")
    assert " too few. It would fit with " in told
    for name, value in settings.items():
        assert f"{name}: {str(value).lower()}" in told


@pytest.mark.parametrize(
    ("spared", "decided"), [(HEADROOM + 0.01, False), (HEADROOM - 0.01, True), (-0.5, True), (None, True)]
)
def test_layers_run_twice_only_where_they_must(estimator: StageEstimator, spared: float | None, decided: bool) -> None:
    needed = estimator.memory(GPU).total
    asking = GPU.model_copy(update={"gradient_checkpointing": "if_needed"})
    if spared is not None:
        asking = asking.model_copy(update={"memory_gib": needed / (1 - spared) / GIB})
    assert resolve_checkpointing(estimator, asking) == asking.model_copy(update={"gradient_checkpointing": decided})


@pytest.mark.parametrize("said", [True, False])
def test_a_profile_that_decides_itself_is_left_as_it_is(estimator: StageEstimator, said: bool) -> None:
    decided = GPU.model_copy(update={"gradient_checkpointing": said})
    assert resolve_checkpointing(estimator, decided) is decided


def test_a_stage_s_ranks_are_told_what_was_decided(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    for name in ("vision_encoder", "qformer", "language_model"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    launcher = RecordingLauncher()
    run = small_run(recipe, GPU.model_copy(update={"gradient_checkpointing": "if_needed", "memory_gib": 24.0}))
    mixture = store.make("mixtures/tiny_pairs@1", "test", {}, [], lambda folder: Outcome(details=ONE_COMPONENT))
    with pytest.raises(HandoffError, match="without all of its steps"):
        train_stage(store, run, "mine", "stage1", mixture, None, launcher)
    assert [job["hardware"]["gradient_checkpointing"] for job in launcher.jobs] == [False]


def test_ranks_that_share_a_machine_may_be_too_many(estimator: StageEstimator) -> None:
    alone = estimator.memory(GPU.model_copy(update={"device": "cpu", "gradient_checkpointing": True})).total
    settings = {"device": "cpu", "ranks": 2, "memory_gib": (alone + 1) / GIB}
    assert "ranks: 1" in refusal(estimator, GPU.model_copy(update=settings))


def test_a_base_in_four_bits_is_never_to_be_cut(estimator: StageEstimator) -> None:
    told = refusal(estimator, GPU.model_copy(update={"memory_gib": 0.1, "quantize_base": "nf4"}))
    assert "zero_stage: 3" not in told


def test_a_disk_is_offered_more_only_where_the_profile_names_one(estimator: StageEstimator) -> None:
    fields = {"device": "cpu", "zero_stage": 3, "offload": "optimizer", "memory_gib": 0.1}
    host = GPU.model_copy(update=fields)
    assert "offload: " not in refusal(estimator, host)
    assert "offload: optimizer_and_parameters" in refusal(
        estimator, host.model_copy(update={"offload_folder": "/mnt/nvme"})
    )


def test_if_nothing_helps_the_least_memory_is_told(estimator: StageEstimator) -> None:
    told = refusal(estimator, GPU.model_copy(update={"memory_gib": 0.1}))
    assert "No setting makes it fit; the least is " in told
    assert "precision: bf16" in told


def test_a_stage_that_does_not_fit_is_refused_before_anything_starts(store: Store, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    for name in ("vision_encoder", "qformer", "language_model"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    launcher = RecordingLauncher()
    run = small_run(recipe, GPU.model_copy(update={"memory_gib": 0.1}))
    mixture = store.make("mixtures/tiny_pairs@1", "test", {}, [], lambda folder: Outcome())
    with pytest.raises(DefinitionError, match="stage1 needs"):
        train_stage(store, run, "mine", "stage1", mixture, None, launcher)
    assert launcher.jobs == []
    assert store.names("runs/") == []
