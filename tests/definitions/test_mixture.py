"""Errors of a mixture, alone and combined with a stage and a hardware profile."""

from typing import Any

import pytest
from pydantic import ValidationError

from tinygptv import catalog
from tinygptv.catalog import check_batch_sizes
from tinygptv.definitions.mixture import MIN_SHARE, Mixture
from tinygptv.errors import DefinitionError

STAGE = catalog.recipe("tinygptv_tiny").stages[0]
PROFILE = catalog.hardware("cpu")


def mixture(*components: dict[str, Any], draw: str = "per_step") -> Mixture:
    """Sources called `a`, `b`, …, of weight one unless said otherwise."""
    named = [
        {"source": name, "task": "caption_only", "weight": 1.0, **fields}
        for name, fields in zip("abc", components, strict=False)
    ]
    return Mixture.model_validate({"about": "made up", "draw": draw, "components": named})


def test_a_component_with_a_tiny_share_is_refused() -> None:
    mixture({}, {"weight": 2 * MIN_SHARE})
    message = r"components\[1\]\.weight: b would be 5e-06 of all draws; give it at least 1e-05 of the sum of weights"
    with pytest.raises(ValidationError, match=message):
        mixture({}, {"weight": MIN_SHARE / 2})


def test_batch_sizes_are_for_all_components_or_for_none() -> None:
    mixture({"batch_size": 4}, {"batch_size": 2})
    with pytest.raises(ValidationError, match=r"components\[1\]\.batch_size: b has none; set it for all or for none"):
        mixture({"batch_size": 4}, {})


def test_per_sample_mixtures_have_no_batch_sizes() -> None:
    with pytest.raises(ValidationError, match="per_sample mixtures draw single samples; use draw: per_step"):
        mixture({"batch_size": 4}, {"batch_size": 2}, draw="per_sample")


@pytest.mark.parametrize("field", ["weight", "max_epochs", "max_samples", "batch_size"])
def test_zero_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        mixture({field: 0})


def test_a_step_of_a_component_holds_no_more_than_the_stage_plans_for() -> None:
    whole = STAGE.global_batch_size
    check_batch_sizes(STAGE, mixture({"batch_size": whole}), PROFILE, "cpu")
    message = (
        rf"datasets/mixtures/{STAGE.mixture}\.yaml, components\[1\]\.batch_size: b puts {whole + 2} samples into a "
        rf"step, and {STAGE.stage} plans for {whole}; raise its global_batch_size"
    )
    with pytest.raises(DefinitionError, match=message):
        check_batch_sizes(STAGE, mixture({"batch_size": whole}, {"batch_size": whole + 2}), PROFILE, "cpu")


def test_ranks_of_all_machines_must_share_a_step_of_each_component_evenly() -> None:
    blend = mixture({"batch_size": 4}, {"batch_size": 6})
    check_batch_sizes(STAGE, blend, PROFILE.model_copy(update={"ranks": 2}), "cpu")
    message = (
        r"components\[1\]\.batch_size: infra/hardware/mine\.yaml has 4 ranks, which cannot share the 6 samples of b"
    )
    with pytest.raises(DefinitionError, match=message):
        check_batch_sizes(STAGE, blend, PROFILE.model_copy(update={"ranks": 2, "nodes": 2}), "mine")
