"""What DeepSpeed says of a step, as far as no CPU can show it: its fp16 needs a GPU."""

from types import SimpleNamespace
from typing import Any

import pytest

from tinygptv.train.holdings import scaled_too_far


def engine(fp16: bool, **optimizer: Any) -> Any:
    return SimpleNamespace(fp16_enabled=lambda: fp16, optimizer=SimpleNamespace(**optimizer))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (engine(fp16=True, overflow=True), True),
        (engine(fp16=True, overflow=False), False),
        (engine(fp16=False, overflow=True), False),
        (engine(fp16=False), False),
    ],
)
def test_only_fp16_may_leave_a_step_out_to_scale_its_losses_less(given: Any, expected: bool) -> None:
    assert scaled_too_far(given) is expected
