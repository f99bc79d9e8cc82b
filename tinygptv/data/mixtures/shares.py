"""What a stage gets from each component of its mixture: shares, how often each sample comes, and caps on that."""

from collections.abc import Iterator, Sequence

import numpy as np

from tinygptv.data.mixtures.sampling_order import Cards
from tinygptv.definitions.mixture import Mixture
from tinygptv.errors import DefinitionError


def declared_shares(mixture: Mixture) -> list[float]:
    """Each component's share of the samples, by its weight and, if it has one of its own, its batch size."""
    weights = [component.weight * (component.batch_size or 1) for component in mixture.components]
    return [weight / sum(weights) for weight in weights]


def drawn_samples(mixture: Mixture, seed: int, steps: int, batch: int) -> list[int]:
    """How many samples of each component the first steps draw, exactly."""
    counts: list[int] = Cards(mixture, seed, batch).samples_before(steps).tolist()
    return counts


def realised_shares(mixture: Mixture, seed: int, steps: int, batch: int) -> list[float]:
    """The share of samples that each component gives in the first steps."""
    drawn = np.array(drawn_samples(mixture, seed, steps, batch))
    shares: list[float] = (drawn / drawn.sum()).tolist()
    return shares


def shares_table(mixture: Mixture, sizes: Sequence[int], seed: int, steps: int, batch: int) -> Iterator[str]:
    """Lines for people: each component's samples, declared and realised share, how often each sample comes, and how
    often it may."""
    drawn = drawn_samples(mixture, seed, steps, batch)
    yield f"{'component':<32} {'samples':>9} {'declared':>9} {'realised':>9} {'epochs':>8} {'at most':>8}".rstrip()
    for component, size, declared, count in zip(
        mixture.components, sizes, declared_shares(mixture), drawn, strict=True
    ):
        name, most = f"{component.source} {component.task}", component.max_epochs
        row = f"{name:<32} {size:>9} {declared:>9.2%} {count / sum(drawn):>9.2%} {count / size:>8.2f}"
        yield row if most is None else f"{row} {most:>8g}"


def refuse_repetition(
    mixture_name: str, sizes: Sequence[int], mixture: Mixture, seed: int, steps: int, batch: int
) -> None:
    """Raise DefinitionError, with the numbers, if the steps would draw a component more often than it allows."""
    drawn = drawn_samples(mixture, seed, steps, batch)
    over = [
        f"components[{place}]: {count} draws of the {size} samples of {component.source} are "
        f"{count / size:.2f} epochs, and its max_epochs is {component.max_epochs:g}"
        for place, (component, size, count) in enumerate(zip(mixture.components, sizes, drawn, strict=True))
        if component.max_epochs is not None and count > component.max_epochs * size
    ]
    if over:
        raise DefinitionError(
            f"mixture '{mixture_name}' in {steps} steps: {'; '.join(over)}. Take fewer steps, give it less weight or "
            "more samples, or allow it more epochs"
        )
