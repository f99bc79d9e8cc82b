"""Drawing a million steps of the full stage-4 mixture, both ways: CPU time, growth of memory, and realised shares.

python benchmarks/drawing.py
"""

import resource

from comparison import report, seconds_of

from tinygptv import catalog
from tinygptv.data.mixtures.sampling_order import Order
from tinygptv.data.mixtures.shares import declared_shares, realised_shares
from tinygptv.definitions.mixture import Mixture

STEPS, DRAWS, SEED = 1_000_000, 10_000, 42
MIXTURES, BATCHES = ("stage4_multitask", "stage4_by_sample"), (32, 64)
SIZES = (1_000_000, 5_400_000, *[100_000] * 20)
"""Samples by component: about as many as the published sets hold, so that some are cut into hands."""


def main() -> None:
    """Draw, then count."""
    for name in MIXTURES:
        mixture = catalog.mixture(name)
        for batch in BATCHES:
            measure_plans(name, with_equal_steps(mixture), batch)
        shares = zip(realised_shares(mixture, SEED, DRAWS, 1), declared_shares(mixture), strict=True)
        worst = max(abs(realised / declared - 1) for realised, declared in shares)
        report(f"drawing: {name}, worst share after {DRAWS} draws", 100 * worst, None, "% of it", "<= 1")


def with_equal_steps(mixture: Mixture) -> Mixture:
    """Without batch sizes of its components: more samples per step, so more work."""
    components = [component.model_copy(update={"batch_size": None}) for component in mixture.components]
    return mixture.model_copy(update={"components": components})


def measure_plans(name: str, mixture: Mixture, batch: int) -> None:
    """Plan all steps, block by block, and look at the peak of memory after a hundredth and at the end."""
    order = Order(mixture, SIZES, SEED, batch)

    def draw(steps: range) -> int:
        return sum(len(plan.positions) for plan in order.plans(steps))

    draw(range(STEPS // 100))
    before = peak_megabytes()
    seconds = seconds_of(lambda: draw(range(STEPS)))
    details = {"batch": batch, "steps": STEPS}
    report(f"drawing: {name}, a million steps", seconds, None, "CPU s", "<= 10", **details)
    report(f"drawing: {name}, growth of memory", peak_megabytes() - before, None, "MB", "<= 64", **details)


def peak_megabytes() -> float:
    """The most that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
