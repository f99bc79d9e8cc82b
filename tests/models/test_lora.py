"""LoRA adapters: they begin without effect, are merged without a change, and leave all names as they are."""

import torch
from torch import Tensor

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.models.lora import attach_lora, merge_lora, plain_name
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import LORA as LORA_NAMES
from tinygptv.models.weights import parameters_by_name

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, init="fresh")


def logits(model: VisionLanguageModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model.logits(batch["pixel_values"], batch["input_ids"], batch["attention_mask"])


def test_fresh_adapters_change_nothing(model: VisionLanguageModel, batch: dict[str, Tensor]) -> None:
    before = logits(model, batch)
    attach_lora(model.language_model, LORA)
    torch.testing.assert_close(logits(model, batch), before)


def test_merging_keeps_the_function_and_restores_the_plain_layout(
    model: VisionLanguageModel, batch: dict[str, Tensor]
) -> None:
    plain = set(model.state_dict())
    attach_lora(model.language_model, LORA)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = logits(model, batch)
    merge_lora(model.language_model)
    assert set(model.state_dict()) == plain
    torch.testing.assert_close(logits(model, batch), adapted, atol=1e-5, rtol=0)


def test_only_the_decoder_is_adapted_though_the_q_former_has_layers_of_the_same_name(definition: Model) -> None:
    names = parameters_by_name(VisionLanguageModel(definition, 48, LORA))
    adapted = {name for name in names if LORA_NAMES.search(name)}
    assert len(adapted) == definition.language_model.depth * 2 * 2
    assert all(name.startswith("language_model.") for name in adapted)
    assert any(name.startswith("connector.0.") and ".dense." in name for name in names)


def test_names_are_the_same_with_and_without_adapters(definition: Model) -> None:
    plain = set(parameters_by_name(VisionLanguageModel(definition, 48)))
    adapted = set(parameters_by_name(VisionLanguageModel(definition, 48, LORA)))
    assert plain == {name for name in adapted if not LORA_NAMES.search(name)}
    assert plain_name("a.dense.lora_A.default.weight") == "a.dense.lora_A.weight"
