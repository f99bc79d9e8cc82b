"""What a mixture refuses by itself."""

from typing import Any

import pytest
from pydantic import ValidationError

from tinygptv.definitions.mixture import MIN_SHARE, Mixture


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
