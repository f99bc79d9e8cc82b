"""The full sizes, on the meta device, against the published counts: every module by itself, then the whole."""

import functools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tinygptv import catalog
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import parameters_by_name

# The library's vision encoder keeps a bias for keys, which EVA has not: a vector of zeros in each of 39 blocks.
KEY_BIAS = 1408
# Phi-2's width, layers and head width.
WIDTH, DEPTH, HEAD = 2560, 32, 80


@functools.cache
def full_size(recipe: str, stage: str) -> Mapping[str, Tensor]:
    """The parameters of a stage's model, without memory behind them."""
    whole = catalog.recipe(recipe)
    definition = whole.stage(stage)
    with torch.device("meta"):
        return parameters_by_name(VisionLanguageModel(whole.model, definition.inputs.image_size, definition.lora))


def count(parameters: Mapping[str, Tensor], *parts: str, without: tuple[str, ...] = ()) -> int:
    """Elements of all parameters whose names contain one of `parts` and none of `without`."""
    return sum(
        parameter.numel()
        for name, parameter in parameters.items()
        if any(part in name for part in parts) and not any(part in name for part in without)
    )


ADDED_NORMS = ("q_layernorm", "k_layernorm", "attention_norm")


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("vision_encoder.model.encoder.layers.0.", 25_248_768 + KEY_BIAS),
        ("vision_encoder.model.post_layernorm.", 2_816),
        ("connector.0.query_tokens", 24_576),
        ("connector.0.model.", 105_137_664),
        ("connector.1.", 3_149_824),
        ("connector.2.", 10_488_320),
        (".lora_", 31_457_280),
        ("", 3_915_931_008 + 39 * KEY_BIAS),
    ],
)
def test_every_part_has_the_published_number_of_parameters(part: str, parameters: int) -> None:
    assert count(full_size("tinygptv", "stage2"), part) == parameters


@pytest.mark.parametrize(("stage", "parameters"), [("stage1", 985_894_528), ("stage4", 986_975_872)])
def test_the_vision_encoder_grows_by_its_position_table_alone(stage: str, parameters: int) -> None:
    found = count(full_size("tinygptv", stage), "vision_encoder.", without=("post_layernorm",))
    assert found == parameters + 39 * KEY_BIAS


def test_the_decoder_is_phi_2_with_the_published_norms() -> None:
    stage2 = full_size("tinygptv", "stage2")
    assert count(stage2, "language_model.", without=(*ADDED_NORMS, ".lora_")) == 2_779_683_840
    assert count(stage2, *ADDED_NORMS) == 92_160
    assert count(stage2, "q_layernorm") == count(stage2, "k_layernorm") == DEPTH * 2 * HEAD
    assert count(stage2, "attention_norm") == DEPTH * WIDTH
    assert count(stage2, "layers.0.self_attn.query_key_value.lora_") == 64 * (WIDTH + 3 * WIDTH)
    assert count(stage2, "layers.0.self_attn.dense.lora_") == 64 * (WIDTH + WIDTH)


def test_without_adapters_it_is_smaller_by_them() -> None:
    assert count(full_size("tinygptv", "stage1"), "") == 3_884_473_728 + 39 * KEY_BIAS


@pytest.mark.parametrize(
    ("recipe", "base", "norms", "lora"),
    [
        # Both decoders are 2048 wide with heads of 64. Adapters of rank 64: on maps 2048 → 6144 and 2048 → 2048 of 24
        # layers; on two maps 2048 → 2048 and, keys and values having 4 heads, two 2048 → 256, of 22 layers.
        ("tinygptv_phi1_5", 1_418_270_720, 24 * (4 * 64 + 2048), 24 * 64 * (8192 + 4096)),
        ("tinygptv_tinyllama", 1_100_048_384, 22 * (4 * 64 + 2048), 22 * 64 * (2 * 4096 + 2 * 2304)),
    ],
)
def test_the_ablated_backbones_have_their_published_sizes(recipe: str, base: int, norms: int, lora: int) -> None:
    stage2 = full_size(recipe, "stage2")
    assert count(stage2, "language_model.", without=(*ADDED_NORMS, ".lora_")) == base
    assert count(stage2, *ADDED_NORMS) == norms
    assert count(stage2, ".lora_") == lora
