"""The one training loop of all three phases, small because nothing here is distributed."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import getLogger

import torch
from torch import Tensor, nn

from tinygptv.shapes.bootstrap.settings import Phase

logger = getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one step reports: the loss to minimise, and figures worth a log line."""

    loss: Tensor
    figures: dict[str, float]


def train(
    name: str,
    parameters: Iterable[nn.Parameter],
    phase: Phase,
    step_at: Callable[[int], Step],
    checkpoint: Callable[[int], None] | None = None,
) -> list[float]:
    """Minimise for `phase.steps` steps and return every loss; `checkpoint` is called now and then, and at the end."""
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.98), weight_decay=phase.weight_decay)
    losses: list[float] = []
    begun = time.monotonic()
    for number in range(phase.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase, number)
        step = step_at(number)
        optimizer.zero_grad()
        step.loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(step.loss.item())
        if number % 50 == 49:
            figures = " ".join(f"{figure} {value:.3f}" for figure, value in step.figures.items())
            seconds = (time.monotonic() - begun) / (number + 1)
            mean = sum(losses[-50:]) / 50
            logger.info("%s %d/%d loss %.4f %s (%.2f s/step)", name, number + 1, phase.steps, mean, figures, seconds)
        if checkpoint and (number % phase.checkpoint_steps == phase.checkpoint_steps - 1 or number == phase.steps - 1):
            checkpoint(number + 1)
    return losses


def learning_rate(phase: Phase, step: int) -> float:
    """Linear warm-up to the peak, then a cosine down to a tenth of it."""
    if step < phase.warmup_steps:
        return phase.peak_lr * (step + 1) / phase.warmup_steps
    share = (step - phase.warmup_steps) / max(1, phase.steps - phase.warmup_steps)
    return phase.peak_lr * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
