"""What a stage gets from each component: told before training, and refused if that is more than was allowed."""

from collections import Counter

import pytest

from tests.data.mixtures.test_sampling_order import mixture
from tinygptv.data.mixtures.sampling_order import Order
from tinygptv.data.mixtures.shares import (
    declared_shares,
    drawn_samples,
    realised_shares,
    refuse_repetition,
    shares_table,
)
from tinygptv.definitions.mixture import Mixture
from tinygptv.errors import DefinitionError


def capped(blend: Mixture, *caps: float | None) -> Mixture:
    components = [one.model_copy(update={"max_epochs": most}) for one, most in zip(blend.components, caps, strict=True)]
    return blend.model_copy(update={"components": components})


def test_the_table_of_shares_says_how_often_each_sample_comes_and_may() -> None:
    blend = mixture("per_sample", 3, 1)
    lines = list(shares_table(blend, (750, 100), 0, 125, 8))
    assert "declared" in lines[0]
    assert lines[1].split() == ["source0", "vqa", "750", "75.00%", "75.00%", "1.00"]
    assert lines[2].split() == ["source1", "vqa", "100", "25.00%", "25.00%", "2.50"]
    assert list(shares_table(capped(blend, None, 4.0), (750, 100), 0, 125, 8))[2].split()[-2:] == ["2.50", "4"]


def test_what_is_drawn_is_counted_without_drawing_it() -> None:
    for blend in (mixture("per_sample", 3, 1, 1 / 7), mixture("per_step", 3, 1, 1 / 7, batch_sizes=(6, 2, 4))):
        order = Order(blend, (40, 40, 40), 5, 6)
        for steps in (0, 1, 999, 2_345):
            counted = Counter(order.plan(range(steps)).components.tolist())
            assert drawn_samples(blend, 5, steps, 6) == [counted[component] for component in range(3)]


def test_a_share_of_steps_with_batch_sizes_is_a_share_of_samples() -> None:
    blend = mixture("per_step", 1, 1, batch_sizes=(6, 2))
    assert declared_shares(blend) == [0.75, 0.25]
    assert realised_shares(blend, 0, 1000, 6) == [0.75, 0.25]


def test_a_cap_on_repetition_is_exact_to_the_step() -> None:
    """A quarter of 1,000 steps of four show fifty samples 20 times; the 251st step of theirs is one too many."""
    blend = capped(mixture("per_step", 3, 1), None, 20.0)
    refuse_repetition("blend", (40, 50), blend, 7, 1000, 4)
    over = next(steps for steps in range(1000, 2000) if drawn_samples(blend, 7, steps, 4)[1] > 1000)
    refuse_repetition("blend", (40, 50), blend, 7, over - 1, 4)
    with pytest.raises(DefinitionError, match=r"1004 draws of the 50 samples of source1 are 20.08 epochs") as refused:
        refuse_repetition("blend", (40, 50), blend, 7, over, 4)
    assert "mixture 'blend'" in str(refused.value) and "its max_epochs is 20" in str(refused.value)
