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
