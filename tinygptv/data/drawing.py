"""The order in which training draws from a mixture: a pure function of (weights, sizes, seed, step).

No worker, rank or restart has a say in it, and any step can be asked what it used. Two ideas make it exact and cheap:

- *Decks.* Choices of a component are cards. A deck of 1,000 holds every component in its declared share and is
  shuffled anew, by its number, each time it runs out. So shares hold exactly, and how often a component came before
  any card is one multiplication and one count, never a replay.
- *Epochs.* A component's n-th sample is entry n % size of the permutation that belongs to its epoch n // size. So
  nothing comes twice before everything came once.

What is masked, because somebody asked for its removal, is never drawn: the next entry of its permutation that is not
masked stands in for it. So a mask changes only the places that would have shown what it hides, in any epoch.

A card is a step (`per_step`, as the reference trains: a batch holds one component) or a sample (`per_sample`).
"""

import functools
import hashlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tinygptv.definitions.mixture import Mixture
from tinygptv.errors import DefinitionError

DECK = 1000
"""Cards until a mixture's shares hold exactly again."""


Mask = NDArray[np.bool_] | None
"""TRUE for each position of a component that must not be drawn; None if all may be."""


def draw(
    mixture: Mixture, sizes: Sequence[int], seed: int, step: int, batch: int, masks: Sequence[Mask] = ()
) -> list[tuple[int, int]]:
    """The `batch` samples of a step as (component, position within it), in order.

    `sizes` counts each component's samples, masked ones included; each component has a mask, or none has. The same for
    any number of ranks or workers, and for any way to get there.
    """
    if mixture.draw == "per_step":
        component, times = _card(mixture, seed, step)
        ordinals = [(component, times * batch + slot) for slot in range(batch)]
    else:
        ordinals = [_card(mixture, seed, step * batch + slot) for slot in range(batch)]
    places = []
    for component, ordinal in ordinals:
        size = sizes[component]
        mask = masks[component] if masks else None
        places.append((component, _entry(_permutation(size, seed, component, ordinal // size), ordinal % size, mask)))
    return places


def times_drawn(
    mixture: Mixture, sizes: Sequence[int], seed: int, steps: range, batch: int, masks: Sequence[Mask] = ()
) -> list[NDArray[np.int64]]:
    """How often the steps drew each position of each component: what `draw` gives, counted without drawing it."""
    counted = []
    for component, (size, mask) in enumerate(zip(sizes, masks or [None] * len(sizes), strict=True)):
        first, last = (ordinals_before(mixture, component, seed, step, batch) for step in (steps.start, steps.stop))
        times = np.zeros(size, dtype=np.int64)
        for epoch in range(first // size, -(-last // size)):
            shown = _stand_ins(_permutation(size, seed, component, epoch), mask)
            begin, end = max(first - epoch * size, 0), min(last - epoch * size, size)
            times += np.bincount(shown[begin:end], minlength=size)
        counted.append(times)
    return counted


def ordinals_before(mixture: Mixture, component: int, seed: int, step: int, batch: int) -> int:
    """How many samples of a component the steps before `step` draw."""
    weights = tuple(each.weight for each in mixture.components)
    deck, place = divmod(step if mixture.draw == "per_step" else step * batch, DECK)
    counts = _deck_counts(weights)
    cards = deck * counts[component] + int((_shuffled_deck(counts, seed, deck)[0][:place] == component).sum())
    return cards * batch if mixture.draw == "per_step" else cards


def order_seed(seed: int, stage: str) -> int:
    """The seed of a stage's order: stages that share a mixture must not walk through it in the same order."""
    return (seed * 1_000_003 + zlib.crc32(stage.encode())) % 2**63


def declared_shares(mixture: Mixture) -> list[float]:
    """Weights as shares of one."""
    weights = [component.weight for component in mixture.components]
    return [weight / sum(weights) for weight in weights]


def realised_shares(mixture: Mixture, seed: int, steps: int, batch: int) -> list[float]:
    """The share of samples that each component gives in the first `steps` steps."""
    components = range(len(mixture.components))
    return [ordinals_before(mixture, component, seed, steps, batch) / (steps * batch) for component in components]


def shares_table(mixture: Mixture, sizes: Sequence[int], seed: int, steps: int, batch: int) -> Iterator[str]:
    """Lines for people: each component's samples, declared and realised share, and how often each sample comes."""
    realised = realised_shares(mixture, seed, steps, batch)
    yield f"{'component':<32} {'samples':>9} {'declared':>9} {'realised':>9} {'epochs':>8}"
    for component, size, declared, share in zip(
        mixture.components, sizes, declared_shares(mixture), realised, strict=True
    ):
        name = f"{component.source} {component.task}"
        yield f"{name:<32} {size:>9} {declared:>9.2%} {share:>9.2%} {share * steps * batch / size:>8.2f}"


def _card(mixture: Mixture, seed: int, number: int) -> tuple[int, int]:
    """The component of a card, and how many of its cards came before."""
    counts = _deck_counts(tuple(component.weight for component in mixture.components))
    deck, place = divmod(number, DECK)
    component, before = _shuffled_deck(counts, seed, deck)
    return int(component[place]), deck * counts[component[place]] + int(before[place])


@functools.lru_cache(maxsize=64)
def _deck_counts(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Cards per component by largest remainder; even the least has one."""
    if len(weights) > DECK:
        raise DefinitionError(f"a mixture of {len(weights)} components; at most {DECK} can be dealt")
    exact = np.array(weights) / sum(weights) * DECK
    counts = np.maximum(np.floor(exact).astype(int), 1)
    while counts.sum() != DECK:
        error = exact - counts
        if counts.sum() < DECK:
            counts[error.argmax()] += 1
        else:
            counts[np.where(counts > 1, error, np.inf).argmin()] -= 1
    return tuple(int(count) for count in counts)


@functools.lru_cache(maxsize=64)
def _shuffled_deck(counts: tuple[int, ...], seed: int, deck: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A deck's components in order, and for each card how many of the same component lie before it."""
    components = np.repeat(np.arange(len(counts)), counts)[_order(DECK, seed, -1, deck)]
    before = np.empty(DECK, dtype=np.int64)
    for component in range(len(counts)):
        mine = components == component
        before[mine] = np.arange(mine.sum())
    return components, before


@functools.lru_cache(maxsize=256)
def _permutation(size: int, seed: int, component: int, epoch: int) -> NDArray[np.int64]:
    return _order(size, seed, component, epoch)


def _entry(permutation: NDArray[np.int64], place: int, mask: Mask) -> int:
    """The entry at a place, or the next one, round the end, that is not masked."""
    while mask is not None and mask[permutation[place]]:
        place = (place + 1) % len(permutation)
    return int(permutation[place])


def _stand_ins(permutation: NDArray[np.int64], mask: Mask) -> NDArray[np.int64]:
    """`_entry` of every place at once."""
    if mask is None:
        return permutation
    allowed = np.flatnonzero(~mask[permutation])
    following = np.searchsorted(allowed, np.arange(len(permutation)))
    return permutation[allowed[following % len(allowed)]]


def _order(size: int, *key: int) -> NDArray[np.int64]:
    """A permutation that depends on `key` alone, in every version of NumPy: raw Philox words, sorted."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    words = np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(size)
    return np.argsort(words, kind="stable")
