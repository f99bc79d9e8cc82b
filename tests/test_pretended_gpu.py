"""The stand-in refuses what a GPU refuses, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.pretended_gpu import PretendedGpu

HERE = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there: there + HERE,
        lambda there: there @ HERE.T,
        lambda there: torch.cat([there, HERE]),
        lambda there: nn.functional.embedding(torch.tensor([1]), there),
        lambda there: HERE[there > 2],
        lambda there: there.numpy(),
        lambda there: torch.where(there > 2, there, HERE),
        lambda there: there + torch.zeros(2, 3),
        nn.Linear(3, 3),
    ],
)
def test_tensors_on_two_devices_are_refused(mixed: Callable[[Tensor], Tensor]) -> None:
    with PretendedGpu(), pytest.raises((RuntimeError, TypeError)):
        mixed(HERE.to("cuda"))


@pytest.mark.parametrize(
    "allowed",
    [
        lambda there: there + 1,
        lambda there: there * torch.tensor(2.0),
        lambda there: there + torch.zeros(2, 3, device=there.device),
        lambda there: there + there.new_ones(3),
        lambda there: there[HERE > 2],
        lambda there: there.clone().copy_(HERE),
        lambda there: there + torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda there: there.cpu().to("cuda") + there,
        lambda there: nn.functional.linear(there, torch.eye(3, device=there.device)),
    ],
)
def test_what_stays_on_one_device_is_computed_there(allowed: Callable[[Tensor], Tensor]) -> None:
    with PretendedGpu() as gpu:
        there = HERE.to("cuda")
        result = allowed(there)
        assert gpu.holds(result) and result.device.type == "cuda"
        assert not gpu.holds(HERE) and HERE.device.type == "cpu"
        assert not gpu.holds(there.cpu())


def test_gradients_lie_where_their_parameters_do() -> None:
    with PretendedGpu() as gpu:
        layer = nn.Linear(3, 3).to("cuda")
        layer(HERE.to("cuda")).sum().backward()
        assert layer.weight.grad is not None and gpu.holds(layer.weight.grad)
        assert layer.weight.grad.cpu().sum().item() == pytest.approx(3 * HERE.sum().item())
