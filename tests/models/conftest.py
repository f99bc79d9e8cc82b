"""A model definition small enough for any test, without weight files."""

import pytest
import torch
from torch import Tensor

from tinygptv import catalog
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.sample import IGNORE_INDEX, IMAGE_SLOT

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="fresh")
IMAGE_TOKENS = 3


@pytest.fixture
def definition() -> Model:
    content = catalog.recipe("tinygptv_tiny").model.model_dump()
    sizes = {"width": 32, "depth": 2, "heads": 4, "mlp_width": 64}
    content["vision_encoder"] |= sizes
    content["connector"][0] |= sizes | {"queries": IMAGE_TOKENS}
    content["connector"][2]["width"] = 32
    content["language_model"] |= sizes | {"vocabulary": 50}
    return Model.model_validate(content)


@pytest.fixture
def model(definition: Model) -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(definition, image_size=48).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Two pictures and three right-padded samples, the last without a picture."""
    torch.manual_seed(1)
    input_ids = torch.randint(1, 50, (3, 9))
    input_ids[:2, 1 : 1 + IMAGE_TOKENS] = IMAGE_SLOT
    attention_mask = torch.ones(3, 9, dtype=torch.long)
    attention_mask[1, 7:] = 0
    labels = input_ids.masked_fill(attention_mask == 0, IGNORE_INDEX)
    labels[:, :5] = IGNORE_INDEX
    pixel_values = torch.randn(2, 3, 48, 48)
    return {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
