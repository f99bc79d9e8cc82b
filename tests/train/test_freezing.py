"""What a stage trains, by the names in its recipe, against the published counts."""

import functools

import pytest
import torch

from tinygptv import catalog
from tinygptv.errors import DefinitionError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import parameters_by_name
from tinygptv.train.freezing import decays, trainable_names

TINYGPTV = catalog.recipe("tinygptv").model
PROJECTIONS = 3_149_824 + 10_488_320
LORA = 31_457_280
# Weights of Phi-2's trained norms, of 32 layers: queries and keys 80 each, attention branch and input 2560 each.
QK_NORMS, RMS_NORMS, INPUT_NORMS, FINAL_NORM = 32 * 2 * 80, 32 * 2560, 32 * 2560, 2560
NORMS = QK_NORMS + RMS_NORMS + INPUT_NORMS + FINAL_NORM


@functools.cache
def full_size(recipe: str, stage: str) -> dict[str, torch.nn.Parameter]:
    """The full-size model of a stage, without memory behind it."""
    whole = catalog.recipe(recipe)
    definition = whole.stage(stage)
    with torch.device("meta"):
        return parameters_by_name(VisionLanguageModel(whole.model, definition.inputs.image_size, definition.lora))


def trained(recipe: str, stage: str, trains: list[str] | None = None) -> int:
    """Elements of all that a stage trains, or would if it trained `trains`."""
    parameters = full_size(recipe, stage)
    whole = catalog.recipe(recipe)
    names = trainable_names(whole.model, parameters, trains or whole.stage(stage).trains)
    return sum(parameters[name].numel() for name in names)


@pytest.mark.parametrize(
    ("stage", "count"),
    [("stage1", 13_809_664), ("stage2", 45_266_944), ("stage3", 45_266_944), ("stage4", 45_266_944)],
)
def test_each_stage_trains_exactly_what_the_published_one_did(stage: str, count: int) -> None:
    assert trained("tinygptv", stage) == count


def test_the_first_release_trained_the_q_former_too() -> None:
    old = [*catalog.recipe("tinygptv").stage("stage4").trains, "connector.qformer"]
    assert trained("tinygptv", "stage4", old) == 150_429_184


@pytest.mark.parametrize(
    ("trains", "count"),
    [
        ("connector.qformer", 105_137_664 + 24_576),
        ("connector.projections", PROJECTIONS),
        ("connector.linear", PROJECTIONS),
        ("vision_encoder", 985_952_256),
        ("language_model.norms", 171_520),
        ("language_model.added_norms", QK_NORMS + RMS_NORMS),
        ("language_model.input_norms", INPUT_NORMS),
        ("language_model.final_norm", FINAL_NORM),
        ("language_model.lora", LORA),
        ("language_model.all", 2_779_683_840 + 92_160 + LORA),
    ],
)
def test_each_piece_is_what_it_says(trains: str, count: int) -> None:
    assert trained("tinygptv", "stage2", [trains]) == count


def test_norms_mean_their_weights_not_their_biases() -> None:
    names = trainable_names(TINYGPTV, full_size("tinygptv", "stage1"), ["language_model.norms"])
    assert len(names) == 32 * 4 + 1
    assert not [name for name in names if name.endswith("bias")]


def test_the_norms_of_every_decoder_are_the_sum_of_their_kinds() -> None:
    kinds: list[str] = ["language_model.added_norms", "language_model.input_norms", "language_model.final_norm"]
    for recipe in ("tinygptv", "tinygptv_tinyllama"):
        model, parameters = catalog.recipe(recipe).model, full_size(recipe, "stage1")
        assert trainable_names(model, parameters, kinds) == trainable_names(model, parameters, ["language_model.norms"])
    # Per layer of TinyLlama: queries and keys of 64, the attention branch, and one norm before each of its two halves.
    assert trained("tinygptv_tinyllama", "stage1", ["language_model.norms"]) == 22 * (2 * 64 + 3 * 2048) + 2048


@pytest.mark.parametrize(
    ("switch", "fewer", "stages", "smaller"),
    [
        ("without_lora", LORA, ["stage2", "stage3", "stage4"], LORA),
        ("without_input_norm", INPUT_NORMS, ["stage1", "stage2", "stage3", "stage4"], 0),
        ("without_rms_norm", RMS_NORMS, ["stage1", "stage2", "stage3", "stage4"], RMS_NORMS),
        # Frozen as they are, the norms' biases leave the model with them.
        ("without_qk_norm", QK_NORMS, ["stage1", "stage2", "stage3", "stage4"], 2 * QK_NORMS),
    ],
)
def test_an_ablation_takes_away_what_it_says_and_nothing_else(
    switch: str, fewer: int, stages: list[str], smaller: int
) -> None:
    for stage in stages:
        assert trained(f"tinygptv:{switch}", stage) == trained("tinygptv", stage) - fewer
        whole, ablated = full_size("tinygptv", stage), full_size(f"tinygptv:{switch}", stage)
        gone = whole.keys() - ablated.keys()
        assert ablated.keys() <= whole.keys()
        assert sum(whole[name].numel() for name in gone) == smaller


def test_a_name_that_matches_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"trains\[1\]: 'language_model.lora' matches no parameter"):
        trainable_names(TINYGPTV, full_size("tinygptv", "stage1"), ["language_model.norms", "language_model.lora"])


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("connector.1.weight", (4, 3), True),
        ("connector.1.bias", (4,), False),
        ("language_model.model.layers.0.input_layernorm.weight", (8,), False),
        ("language_model.model.layers.0.self_attn.dense.lora_A.weight", (2, 8), True),
        ("connector.0.query_tokens", (1, 4, 8), True),
    ],
)
def test_only_matrices_decay(name: str, shape: tuple[int, ...], decayed: bool) -> None:
    assert decays(name, shape) is decayed
