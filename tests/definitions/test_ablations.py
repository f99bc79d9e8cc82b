"""Ablations take a part of a recipe away, and what is left is a recipe still."""

import pytest

from tinygptv import catalog
from tinygptv.definitions.ablations import ABLATIONS, ablate
from tinygptv.definitions.recipe import Recipe
from tinygptv.errors import DefinitionError


def trained(recipe: Recipe, stage: str) -> set[str]:
    return set(recipe.stage(stage).trains)


@pytest.mark.parametrize("switch", ABLATIONS)
def test_a_switch_gives_a_valid_recipe_and_leaves_the_original_unchanged(switch: str) -> None:
    original = catalog.recipe("tinygptv")
    ablated = ablate(original, [switch])
    assert ablated != original
    assert Recipe.model_validate(ablated.model_dump()) == ablated
    assert original == catalog.recipe("tinygptv")


@pytest.mark.parametrize("switch", ABLATIONS)
def test_removing_what_a_recipe_does_not_have_is_refused(switch: str) -> None:
    once = ablate(catalog.recipe("tinygptv"), [switch])
    with pytest.raises(DefinitionError, match=f"'{switch}' cannot be applied"):
        ablate(once, [switch])


def test_without_lora_no_stage_has_adapters_or_trains_them() -> None:
    ablated = ablate(catalog.recipe("tinygptv"), ["without_lora"])
    for stage in ablated.stages:
        assert stage.lora is None
        assert set(stage.trains) == {"connector.projections", "language_model.norms"}


def test_without_input_norms_the_added_and_final_ones_still_train() -> None:
    ablated = ablate(catalog.recipe("tinygptv"), ["without_input_norm"])
    assert trained(ablated, "stage1") == {
        "connector.projections",
        "language_model.added_norms",
        "language_model.final_norm",
    }


@pytest.mark.parametrize("last", ["without_input_norm", "without_qk_norm"])
def test_switches_combine_in_any_order(last: str) -> None:
    others = [switch for switch in ABLATIONS if switch != last]
    ablated = ablate(catalog.recipe("tinygptv"), [*others, last])
    assert trained(ablated, "stage4") == {"connector.projections", "language_model.final_norm"}


def test_a_stage_that_would_train_nothing_is_refused_by_name() -> None:
    recipe = catalog.recipe("tinygptv")
    only_lora = recipe.stage("stage2").model_copy(update={"trains": ["language_model.lora"]})
    changed = recipe.model_copy(update={"stages": [recipe.stage("stage1"), only_lora]})
    with pytest.raises(DefinitionError, match="stage2 would train nothing"):
        ablate(changed, ["without_lora"])
