"""Samples that share rows give the loss and the gradients of samples in rows of their own."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import IMAGE_TOKENS, LORA
from tests.models.test_vlm import LLAMA
from tinygptv.data.batches.packing import pack
from tinygptv.data.prompting.sequences import Texts
from tinygptv.definitions.model import Model
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT

LENGTHS, WITH_IMAGE = (6, 23, 11, 8), (0, 1, 3)


@dataclass(frozen=True)
class Samples:
    pixel_values: Tensor
    texts: Texts
    packed: Texts
    position_ids: Tensor | None
    packed_pixel_values: Tensor


@pytest.fixture
def samples() -> Samples:
    """Four of unlike lengths, one without a picture, one with a token hidden from attention."""
    torch.manual_seed(1)
    ids, mask = torch.randint(1, 50, (4, 23)), torch.zeros(4, 23, dtype=torch.long)
    for number, length in enumerate(LENGTHS):
        mask[number, :length] = 1
    ids[WITH_IMAGE, 1 : 1 + IMAGE_TOKENS] = IMAGE_SLOT
    labels = ids.masked_fill(mask == 0, IGNORE_INDEX)
    labels[:, :5] = IGNORE_INDEX
    mask[1, 12] = 0
    labels[1, 12:14] = IGNORE_INDEX
    texts, pixel_values = Texts(ids, mask, labels), torch.randn(3, 3, 48, 48)
    packed, position_ids, order = pack(texts)
    shown = [WITH_IMAGE.index(number) for number in order if number in WITH_IMAGE]
    return Samples(pixel_values, texts, packed, position_ids, pixel_values[shown])


@pytest.fixture(params=["phi", "llama"])
def model(request: pytest.FixtureRequest, definition: Model) -> VisionLanguageModel:
    torch.manual_seed(0)
    decoder = LLAMA if request.param == "llama" else definition.language_model
    definition = definition.model_copy(update={"language_model": decoder})
    targets = ["q_proj", "o_proj"] if request.param == "llama" else LORA.targets
    model = VisionLanguageModel(definition, image_size=48, lora=LORA.model_copy(update={"targets": targets})).eval()
    with torch.no_grad():  # fresh weights are so small that hardly anything depends on what attention sees
        for layer in model.language_model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(4)
    return model


def learned(model: VisionLanguageModel, *batch: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and every gradient."""
    model.zero_grad()
    loss, _ = model(*batch)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_rows_of_this_test_are_shared(samples: Samples) -> None:
    assert samples.packed.input_ids.shape[0] < samples.texts.input_ids.shape[0]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_rows_of_their_own(
    model: VisionLanguageModel, samples: Samples, checkpointing: bool
) -> None:
    loss, gradients = learned(model, samples.pixel_values, *samples.texts)
    if checkpointing:
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
        model.language_model.train()  # the layers are checkpointed in training alone
    found, theirs = learned(model, samples.packed_pixel_values, *samples.packed, samples.position_ids)
    assert found.item() == pytest.approx(loss.item(), abs=1e-6)
    assert theirs.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_without_positions_the_sequences_of_a_row_see_each_other(model: VisionLanguageModel, samples: Samples) -> None:
    """So the test above could fail."""
    loss, _ = learned(model, samples.pixel_values, *samples.texts)
    found, _ = learned(model, samples.packed_pixel_values, *samples.packed)
    assert abs(found.item() - loss.item()) > 1e-4
