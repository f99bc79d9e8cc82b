"""The reimplemented reference loop reproduces the recorded losses and gradients of the published code."""

from pathlib import Path

import pytest
import torch

from benchmarks.reference_loop import ReferenceLoop
from tinygptv.golden.case import GRADIENTS, GoldenCase
from tinygptv.golden.checks import load_case
from tinygptv.models.weights import parameters_by_name
from tinygptv.models.weights.files import open_weights
from tinygptv.models.weights.reference import reference_file


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3", "stage4"])
def test_the_reference_loop_gives_the_recorded_loss_and_gradients(shared: Path, stage: str) -> None:
    case = GoldenCase(shared / "golden" / "tinygptv" / stage)
    loop = ReferenceLoop(load_case(case), case.tokenizer, case.inputs(case.io))
    turns = case.turns()
    loss = loop(case.io["image"], [turn.instruction for (turn,) in turns], [turn.answer for (turn,) in turns])
    assert loss.item() == pytest.approx(case.description.loss, abs=1e-5)
    loss.backward()
    parameters = parameters_by_name(loop.model)
    for name, gradient in reference_file(open_weights(case.folder / GRADIENTS), case.model).tensors.items():
        expected, found = gradient.read(), parameters[name].grad
        assert found is not None
        torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
