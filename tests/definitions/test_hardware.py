"""What a hardware profile refuses by itself."""

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.hardware import Hardware

GPU = catalog.hardware("rtx3090")
IN_NF4 = GPU.model_copy(update={"quantize_base": "nf4"})


@pytest.mark.parametrize("change", [{"zero_stage": 3}, {"zero_stage": 3, "offload": "optimizer_and_parameters"}])
def test_a_4_bit_base_is_not_partitioned(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"quantize_base: nf4 needs the full model on every rank.*zero_stage: 2"):
        Hardware.model_validate(IN_NF4.model_dump() | change)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_its_optimizer_may_be_partitioned_and_offloaded(stage: int) -> None:
    content = IN_NF4.model_dump() | {"zero_stage": stage, "offload": "optimizer"}
    assert Hardware.model_validate(content).quantize_base == "nf4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"zero_stage": 2, "offload": "optimizer"}, r"needs zero_stage: 3 .* has zero_stage: 2 and offload: opt"),
        ({"zero_stage": 3}, r"has zero_stage: 3 and offload: none. .*use zero_stage: 3 with offload"),
        ({"zero_stage": 3, "offload": "optimizer", "offload_folder": "swap"}, "swap is not an absolute path; use one"),
    ],
)
def test_a_disk_takes_only_zero_3_partitions(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Hardware.model_validate(GPU.model_dump() | {"offload_folder": "/mnt/nvme"} | change)


def test_other_quantization_formats_are_refused() -> None:
    with pytest.raises(ValidationError, match="quantize_base"):
        Hardware.model_validate(GPU.model_dump() | {"quantize_base": "fp4"})
