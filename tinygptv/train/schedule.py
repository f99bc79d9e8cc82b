"""Step → learning rate. Pure."""

import math

from tinygptv.definitions.recipe import Schedule


def total_steps(schedule: Schedule) -> int:
    """Optimizer steps of the whole stage, all rounds together."""
    return schedule.steps * schedule.rounds


def learning_rate(schedule: Schedule, step: int) -> float:
    """The rate at `step`, counted from 0 through all rounds; the curve restarts with every round.

    Warm-up is linear. The cosine after it counts from the round's first step, not from the end of the warm-up, so there
    is a small drop where it takes over, as in the published runs (`linear_warmup_cosine_lr` of LAVIS).
    """
    step %= schedule.steps
    if step < schedule.warmup_steps:
        climbed = (schedule.peak_lr - schedule.warmup_lr) * step / schedule.warmup_steps
        return min(schedule.peak_lr, schedule.warmup_lr + climbed)
    swing = (1 + math.cos(math.pi * step / schedule.steps)) / 2
    return schedule.final_lr + (schedule.peak_lr - schedule.final_lr) * swing


def begins_round(schedule: Schedule, step: int) -> bool:
    """Whether the optimizer's moments are reset before `step`: at the start of every round after the first."""
    return step > 0 and step % schedule.steps == 0
