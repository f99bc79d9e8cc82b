"""What a stage may train, and what that leaves frozen in front of it."""

import pytest

from tinygptv import catalog
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.trainable import frozen_prefix, matcher, trainable
from tinygptv.loading.checks import feature_conflicts

MODEL = catalog.recipe("tinygptv_tiny").model


@pytest.mark.parametrize(
    ("trains", "frozen"),
    [
        (["connector.projections", "language_model.norms"], ("vision_encoder.", "connector.0.")),
        (["connector.linear"], ("vision_encoder.", "connector.0.")),
        (["connector.qformer"], ("vision_encoder.",)),
        (["vision_encoder", "connector.projections"], ()),
        (["language_model.lora"], ("vision_encoder.", "connector.0.", "connector.1.", "connector.2.")),
    ],
)
def test_the_frozen_prefix_ends_at_the_first_part_that_is_trained(trains: list[str], frozen: tuple[str, ...]) -> None:
    assert frozen_prefix(MODEL, trains) == frozen


@pytest.mark.parametrize("name", catalog.names("recipe"))
def test_every_shipped_stage_keeps_all_frozen_up_to_its_first_projection(name: str) -> None:
    recipe = catalog.recipe(name)
    first = next(number for number, part in enumerate(recipe.model.connector) if part.part == "linear")
    for stage in recipe.stages:
        assert len(stage.frozen_prefix(recipe.model)) == 1 + first


def test_what_may_be_trained_follows_from_the_parts_of_the_model() -> None:
    assert "connector.qformer" in trainable(MODEL)
    without = [part.model_dump() for part in MODEL.connector if part.part != "qformer"]
    assert "connector.qformer" not in trainable(Model.model_validate(MODEL.model_dump() | {"connector": without}))


def test_a_name_that_the_model_does_not_have_is_refused_with_the_nearest_one() -> None:
    content = catalog.recipe("tinygptv_tiny").model_dump()
    content["stages"][0]["trains"] = ["connector.projection"]
    with pytest.raises(
        ValueError, match=r"trains\[0\]: this model has no 'connector.projection' .* 'connector.projections'"
    ):
        Recipe.model_validate(content)


def test_features_are_refused_for_a_stage_that_trains_the_vision_encoder() -> None:
    recipe, profile = catalog.recipe("tinygptv_tiny"), catalog.hardware("cpu_cached")
    stage = recipe.stages[0].model_copy(update={"trains": ["vision_encoder"]})
    (conflict,) = feature_conflicts(recipe.model, stage, profile, "cpu_cached")
    assert "cpu_cached.yaml, features: stage1 trains the vision encoder" in str(conflict)


def test_a_name_of_a_part_that_the_model_lacks_means_no_parameter() -> None:
    assert matcher(MODEL, "connector.resampler").fullmatch("connector.0.weight") is None
    assert matcher(MODEL, "connector.qformer").fullmatch("connector.0.query_tokens")
