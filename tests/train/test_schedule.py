"""The learning rate of every step, against values worked out by hand."""

import pytest

from tinygptv import catalog
from tinygptv.definitions.recipe import Schedule
from tinygptv.train.schedule import begins_round, learning_rate, total_steps

# (stage, step) → rate, computed by hand from `linear_warmup_cosine_lr` of the published code.
PUBLISHED = [
    ("stage1", 0, 1.0e-6),
    ("stage1", 500, 5.05e-5),
    ("stage1", 999, 9.9901e-5),
    ("stage1", 1000, 9.809017e-5),
    ("stage1", 2500, 9.0e-5),
    ("stage2", 4999, 9.99802e-5),
    ("stage2", 5000, 9.707107e-5),
    ("stage2", 10000, 9.0e-5),
    ("stage3", 199, 2.9855e-5),
    ("stage3", 200, 2.809017e-5),
    ("stage4", 1000, 1.006907e-5),
    ("stage4", 25000, 4.5e-5),
    ("stage4", 49999, 8.0e-5),
]
# Where the fixed preset differs: one long first stage, and a fourth that decays to 1e-6. The cosine at 1000 of 85000
# steps is 0.999317, at 5000 0.982973; at 1000 of 50000 it is 0.998027, at a quarter 0.707107.
FIXED = [
    ("stage1", 0, 1.0e-6),
    ("stage1", 500, 5.05e-5),
    ("stage1", 1000, 9.999317e-5),
    ("stage1", 5000, 9.982973e-5),
    ("stage1", 42500, 9.0e-5),
    ("stage1", 84999, 8.0e-5),
    ("stage2", 5000, 9.707107e-5),
    ("stage3", 200, 2.809017e-5),
    ("stage4", 0, 1.0e-6),
    ("stage4", 999, 9.991e-6),
    ("stage4", 1000, 9.991120e-6),
    ("stage4", 12500, 8.681981e-6),
    ("stage4", 25000, 5.5e-6),
    ("stage4", 49999, 1.0e-6),
]
CASES = [("tinygptv", *case) for case in PUBLISHED] + [("tinygptv_fixed", *case) for case in FIXED]


@pytest.mark.parametrize(("recipe", "stage", "step", "rate"), CASES)
def test_the_rate_of_both_presets_is_the_one_worked_out_by_hand(
    recipe: str, stage: str, step: int, rate: float
) -> None:
    schedule = catalog.recipe(recipe).stage(stage).schedule
    assert learning_rate(schedule, step) == pytest.approx(rate, rel=1e-6)


def test_stage_4_climbs_as_published_and_falls_when_fixed() -> None:
    steps = range(1000, 50000, 1000)
    published, fixed = (
        [learning_rate(catalog.recipe(recipe).stage("stage4").schedule, step) for step in steps]
        for recipe in ("tinygptv", "tinygptv_fixed")
    )
    assert published == sorted(published)
    assert fixed == sorted(fixed, reverse=True)


def test_every_round_begins_the_curve_again() -> None:
    schedule = catalog.recipe("tinygptv").stage("stage1").schedule
    assert total_steps(schedule) == 17 * 5000
    for step in (0, 700, 1000, 4999):
        assert learning_rate(schedule, step + 3 * 5000) == learning_rate(schedule, step)
    assert [step for step in range(0, 15001, 2500) if begins_round(schedule, step)] == [5000, 10000, 15000]


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    schedule = Schedule(warmup_lr=0.0, peak_lr=1.0, final_lr=0.5, warmup_steps=0, steps=10)
    assert learning_rate(schedule, 0) == 1.0
