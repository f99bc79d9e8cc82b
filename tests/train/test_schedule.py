import pytest

from tinygptv import catalog
from tinygptv.definitions.recipe import Schedule
from tinygptv.train.schedule import begins_round, learning_rate, total_steps

# (stage, step) → rate of the published schedule, computed by hand from `linear_warmup_cosine_lr`.
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


@pytest.mark.parametrize(("stage", "step", "rate"), PUBLISHED)
def test_the_rate_is_the_published_one(stage: str, step: int, rate: float) -> None:
    schedule = catalog.recipe("tinygptv").stage(stage).schedule
    assert learning_rate(schedule, step) == pytest.approx(rate, rel=1e-6)


def test_every_round_begins_the_curve_again() -> None:
    schedule = catalog.recipe("tinygptv").stage("stage1").schedule
    assert total_steps(schedule) == 17 * 5000
    for step in (0, 700, 1000, 4999):
        assert learning_rate(schedule, step + 3 * 5000) == learning_rate(schedule, step)
    assert [step for step in range(0, 15001, 2500) if begins_round(schedule, step)] == [5000, 10000, 15000]


def test_without_a_warm_up_the_first_step_has_the_peak_rate() -> None:
    schedule = Schedule(warmup_lr=0.0, peak_lr=1.0, final_lr=0.5, warmup_steps=0, steps=10)
    assert learning_rate(schedule, 0) == 1.0
