import pytest
import torch

from tinygptv import catalog
from tinygptv.errors import DefinitionError
from tinygptv.models.vlm import VisionLanguageModel
from tinygptv.models.weights import parameters_by_name
from tinygptv.train.freezing import decays, trainable_names


def published(stage: str) -> dict[str, torch.nn.Parameter]:
    """The full-size model of a stage, without memory behind it."""
    recipe = catalog.recipe("tinygptv")
    definition = recipe.stage(stage)
    with torch.device("meta"):
        model = VisionLanguageModel(recipe.model, definition.inputs.image_size, definition.lora)
    return parameters_by_name(model)


@pytest.mark.parametrize(
    ("stage", "trained"),
    [("stage1", 13_809_664), ("stage2", 45_266_944), ("stage3", 45_266_944), ("stage4", 45_266_944)],
)
def test_each_stage_trains_exactly_what_the_published_one_did(stage: str, trained: int) -> None:
    parameters = published(stage)
    names = trainable_names(parameters, catalog.recipe("tinygptv").stage(stage).trains)
    assert sum(parameters[name].numel() for name in names) == trained


def test_the_full_model_has_the_published_number_of_parameters() -> None:
    parameters = published("stage2")
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    # The library keeps a bias for keys, which EVA has not: 39 blocks of 1408 zeros.
    assert sum(sizes.values()) == 3_915_931_008 + 39 * 1408
    assert sum(size for name, size in sizes.items() if ".lora_" in name) == 31_457_280
    assert sum(size for name, size in sizes.items() if name.startswith("connector.0.")) == 105_137_664 + 24_576


def test_norms_mean_their_weights_not_their_biases() -> None:
    names = trainable_names(published("stage1"), ["language_model.norms"])
    assert len(names) == 32 * 4 + 1
    assert not [name for name in names if name.endswith("bias")]


def test_the_q_former_is_trained_only_when_named() -> None:
    parameters = published("stage1")
    names = trainable_names(parameters, ["connector.qformer"])
    assert "connector.0.query_tokens" in names
    assert sum(parameters[name].numel() for name in names) == 105_162_240
    assert not names & trainable_names(parameters, ["connector.projections"])


def test_a_name_that_matches_nothing_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"trains\[1\]: 'language_model.lora' matches no parameter"):
        trainable_names(published("stage1"), ["language_model.norms", "language_model.lora"])


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
