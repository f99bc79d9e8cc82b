"""DeepSpeed's configuration follows from the stage and the hardware profile."""

from pathlib import Path

import pytest
from deepspeed.utils.config import get_timers_config

from tinygptv import catalog
from tinygptv.train.deepspeed import Disk, accumulation_steps, deepspeed_config


@pytest.mark.parametrize(
    ("global_batch_size", "ranks", "micro_batch_size", "steps"),
    [(32, 2, 16, 1), (32, 1, 16, 2), (64, 1, 16, 4), (6, 1, 16, 1), (6, 2, 2, 3), (12, 1, 5, 3), (7, 1, 4, 7)],
)
def test_a_share_is_cut_into_the_fewest_equal_pieces(
    global_batch_size: int, ranks: int, micro_batch_size: int, steps: int
) -> None:
    assert accumulation_steps(global_batch_size, ranks, micro_batch_size) == steps


@pytest.mark.parametrize("hardware", ["cpu", "rtx3090", "h200"])
def test_hardware_decides_the_pieces_and_never_the_batch(hardware: str) -> None:
    stage, profile = catalog.recipe("tinygptv").stage("stage2"), catalog.hardware(hardware)
    config = deepspeed_config(stage, profile)
    pieces = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"]
    assert config["train_batch_size"] == 64 == pieces * profile.ranks
    assert config["train_micro_batch_size_per_gpu"] <= profile.micro_batch_size
    assert config["zero_optimization"]["stage"] == profile.zero_stage


def test_no_timer_waits_for_the_device() -> None:
    config = deepspeed_config(catalog.recipe("tinygptv").stage("stage2"), catalog.hardware("rtx3090"))
    assert not get_timers_config(config).enabled


def test_no_clipping_is_said_as_zero() -> None:
    recipe = catalog.recipe("tinygptv")
    assert deepspeed_config(recipe.stage("stage1"), catalog.hardware("cpu"))["gradient_clipping"] == 0.0


def test_what_goes_to_a_disk_is_cut_by_parameter_and_never_kept_or_brought_ahead(tmp_path: Path) -> None:
    fields = {"zero_stage": 3, "offload": "optimizer_and_parameters", "offload_folder": "/mnt", "ranks": 2}
    profile = catalog.hardware("rtx3090").model_copy(update=fields)
    config = deepspeed_config(catalog.recipe("tinygptv").stage("stage2"), profile, Disk(tmp_path, 101))
    zero = config["zero_optimization"]
    for part in ("offload_optimizer", "offload_param"):
        assert (zero[part]["device"], zero[part]["nvme_path"]) == ("nvme", str(tmp_path))
    assert zero["offload_param"]["buffer_size"] == 51
    assert zero["sub_group_size"] == 1
    for field in ("stage3_param_persistence_threshold", "stage3_max_reuse_distance", "stage3_prefetch_bucket_size"):
        assert zero[field] == 0


def test_offload_reaches_the_configuration() -> None:
    profile = catalog.hardware("rtx3090").model_copy(update={"zero_stage": 3, "offload": "optimizer_and_parameters"})
    zero = deepspeed_config(catalog.recipe("tinygptv").stage("stage2"), profile)["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}
