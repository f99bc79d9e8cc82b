"""What a hardware profile refuses by itself."""

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.hardware import Hardware

GPU = catalog.hardware("rtx3090")
IN_NF4 = GPU.model_copy(update={"quantize_base": "nf4"})


@pytest.mark.parametrize("change", [{"zero_stage": 3}, {"zero_stage": 3, "offload": "optimizer_and_parameters"}])
def test_a_base_in_four_bits_is_not_cut_into_shares(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"quantize_base: nf4 needs the model whole on every rank.*zero_stage: 2"):
        Hardware.model_validate(IN_NF4.model_dump() | change)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_optimizer_may_be_cut_and_offloaded_beside_it(stage: int) -> None:
    content = IN_NF4.model_dump() | {"zero_stage": stage, "offload": "optimizer"}
    assert Hardware.model_validate(content).quantize_base == "nf4"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"zero_stage": 2, "offload": "optimizer"}, r"needs zero_stage: 3 .* they are zero_stage: 2 and offload: opt"),
        ({"zero_stage": 3}, r"they are zero_stage: 3 and offload: none: .*write zero_stage: 3 with offload"),
        ({"zero_stage": 3, "offload": "optimizer", "offload_folder": "swap"}, "swap is no absolute path; write one"),
    ],
)
def test_a_disk_takes_only_what_zero_3_has_cut(change: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Hardware.model_validate(GPU.model_dump() | {"offload_folder": "/mnt/nvme"} | change)


def test_other_ways_to_round_a_base_are_not_known() -> None:
    with pytest.raises(ValidationError, match="quantize_base"):
        Hardware.model_validate(GPU.model_dump() | {"quantize_base": "fp4"})
