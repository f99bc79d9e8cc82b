"""What a recipe may not say."""

from typing import Any

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.definitions.recipe import Recipe


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"alpha": 64.0}, r"stages\[2\]\.lora\.alpha: 64\.0, but stage3 inherits the adapters of stage2.*alpha 16\.0"),
        ({"rank": 8}, r"stages\[2\]\.lora\.rank: 8, but stage3 inherits the adapters of stage2.*rank 16"),
        ({"targets": ["dense"]}, r"stages\[2\]\.lora\.targets: \['dense'\], but stage3 inherits"),
    ],
)
def test_inherited_adapters_act_as_they_were_trained(change: dict[str, Any], told: str) -> None:
    content = catalog.recipe("tinygptv_tiny").model_dump()
    content["stages"][2]["lora"] |= change
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(content)


def test_inherited_adapters_may_drop_out_more_and_have_their_targets_in_another_order() -> None:
    content = catalog.recipe("tinygptv_tiny").model_dump()
    content["stages"][2]["lora"] |= {"dropout": 0.2, "targets": ["dense", "query_key_value"]}
    assert Recipe.model_validate(content)


@pytest.mark.parametrize("field", ["loss_spike", "gradient_explosion"])
def test_a_watch_that_could_not_see_anything_is_refused(field: str) -> None:
    content = catalog.recipe("tinygptv_tiny").model_dump()
    content["stages"][0]["watch"][field] = 3.0
    content["stages"][0]["schedule"] |= {"warmup_steps": 2, "steps": 10, "rounds": 2}
    with pytest.raises(ValidationError, match=rf"watch\.{field} compares a step with at least 20.*has only 20"):
        Recipe.model_validate(content)
    content["stages"][0]["schedule"]["rounds"] = 3
    assert Recipe.model_validate(content)
