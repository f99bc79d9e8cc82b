"""Where the vision encoder's output norm comes from in a model without a Q-Former, whose file holds it elsewhere."""

import torch

from tinygptv.definitions.model import Model
from tinygptv.models.blip2 import output_norm_file
from tinygptv.models.stored import in_memory
from tinygptv.models.weights.anew import IDENTITY, rules

NORM = "vision_encoder.model.post_layernorm.weight"


def begins_as_identity(definition: Model) -> bool:
    return any(pattern.search(NORM) and how == IDENTITY for pattern, how in rules(definition).items())


def test_only_a_model_that_nobody_gives_one_begins_with_the_identity(definition: Model) -> None:
    linear = definition.connector[2].model_copy(update={"width": definition.language_model.width})
    without_qformer = definition.model_copy(update={"connector": [linear]})
    vision = definition.vision_encoder.model_copy(update={"output_norm": "data:blip2.pth"})
    assert not begins_as_identity(definition)
    assert begins_as_identity(without_qformer)
    assert not begins_as_identity(without_qformer.model_copy(update={"vision_encoder": vision}))


def test_only_the_output_norm_is_taken_from_a_blip_2_file() -> None:
    tensors = {
        "ln_vision.weight": torch.ones(4),
        "ln_vision.bias": torch.zeros(4),
        "query_tokens": torch.zeros(1, 2, 4),
    }
    found = output_norm_file({name: in_memory(name, tensor) for name, tensor in tensors.items()})
    assert set(found.tensors) == {NORM, NORM.replace("weight", "bias")}
    assert found.left_out == {"query_tokens": "no part of the vision encoder"}
