"""The order in which training draws from a mixture: a pure function of (definition, sizes, seed, step).

It does not depend on workers, ranks or restarts, and the samples of any step can be computed directly. Three ideas make
it exact and cheap:

- *Decks.* A card names a component. A deck of 1,000 cards is shuffled with its number as the seed, and composed so that
  all decks up to its end together match the declared shares as closely as whole cards can. So the number of earlier
  cards of a component takes one multiplication and one count, not a replay.
- *Epochs.* A component's n-th sample is entry n % size of the permutation of its epoch n // size. So no sample repeats
  before all have been drawn.
- *Hands.* An epoch is shuffled in hands of at most 131,072 samples, so memory stays small for any component. A larger
  component is split into hands that each take every k-th sample; an epoch also shuffles the hands.

A masked sample is never drawn: the next unmasked entry of its hand replaces it. So a mask changes only the places that
would have drawn what it hides, in every epoch.

A card is a step (`per_step`, as in the reference: a batch holds one component) or a sample (`per_sample`).
"""

import functools
import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinygptv.definitions.mixture import Mixture

DECK = 1000
"""Cards in a deck; a multiple of it where the smallest component would otherwise have less than one card."""

HAND = 2**17
"""Samples of a component that are shuffled together; 1 MB each."""

_BLOCK = 1000
_KEPT_DECKS = 4

Mask = NDArray[np.bool_] | None
"""True for each position of a component that must not be drawn; None if all may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The N samples of consecutive steps, in order; those of the n-th step are starts[n] to starts[n + 1].

    components (N,) int16, positions within them (N,) int64, starts (steps + 1,) int64.
    """

    steps: range
    starts: NDArray[np.int64]
    components: NDArray[np.int16]
    positions: NDArray[np.int64]


class Cards:
    """The component that every card of a mixture names, and the number of samples it stands for.

    `batch` is the stage's batch size, for components that do not set their own.
    """

    def __init__(self, mixture: Mixture, seed: int, batch: int) -> None:
        weights = [component.weight for component in mixture.components]
        self._shares = np.array(weights) / math.fsum(weights)
        self._size = DECK * math.ceil(1 / (DECK * self._shares.min()))
        self._seed = seed
        self._cards_before = functools.lru_cache(maxsize=_KEPT_DECKS)(self._apportioned)
        self._deck = functools.lru_cache(maxsize=_KEPT_DECKS)(self._shuffled)
        per_step = mixture.draw == "per_step"
        self.per_step = 1 if per_step else batch
        samples = [component.batch_size or batch for component in mixture.components]
        self.samples = np.array(samples if per_step else [1] * len(weights))
        """(components,) samples per card of each."""

    def of(self, steps: range) -> NDArray[np.int16]:
        """The cards of some steps, as component numbers."""
        first, last = steps.start * self.per_step, steps.stop * self.per_step
        decks = range(first // self._size, -(-last // self._size))
        return np.concatenate(
            [np.empty(0, np.int16)]
            + [self._deck(deck)[max(first - deck * self._size, 0) : last - deck * self._size] for deck in decks]
        )

    def samples_before(self, step: int) -> NDArray[np.int64]:
        """(components,) The number of samples of each that the steps before `step` draw."""
        deck, place = divmod(step * self.per_step, self._size)
        begun = np.bincount(self._deck(deck)[:place], minlength=len(self._shares)) if place else 0
        return (self._cards_before(deck) + begun) * self.samples

    def _apportioned(self, decks: int) -> NDArray[np.int64]:
        """Cards of each component in the first decks, by largest remainder."""
        exact = decks * self._size * self._shares
        counts = np.floor(exact).astype(np.int64)
        missing = decks * self._size - counts.sum()
        counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
        return counts

    def _shuffled(self, deck: int) -> NDArray[np.int16]:
        # Never negative: a share of a deck is at least one card, and no remainder moves a sum by more.
        counts = self._cards_before(deck + 1) - self._cards_before(deck)
        components = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        return components[_order(self._size, self._seed, -1, deck)]


class Order:
    """The samples of every step of a stage, independent of ranks, workers and restarts.

    `sizes` are the components' sample counts including masked samples; `masks` has one entry per component or is empty.
    """

    def __init__(
        self, mixture: Mixture, sizes: Sequence[int], seed: int, batch: int, masks: Sequence[Mask] = ()
    ) -> None:
        self._cards = Cards(mixture, seed, batch)
        self._sizes, self._seed = sizes, seed
        self._masks = masks or [None] * len(sizes)
        self._cut = functools.lru_cache(maxsize=2 * len(sizes))(self._hands)
        self._hand = functools.lru_cache(maxsize=2 * len(sizes))(self._shuffled)

    def draw(self, step: int) -> list[tuple[int, int]]:
        """The samples of a step as (component, position within it), in order."""
        plan = self.plan(range(step, step + 1))
        return list(zip(plan.components.tolist(), plan.positions.tolist(), strict=True))

    def plan(self, steps: range) -> Plan:
        """All samples of consecutive steps at once."""
        cards = self._cards.of(steps)
        samples = self._cards.samples[cards]
        starts = np.concatenate([[0], np.cumsum(samples)])[:: self._cards.per_step]
        components = np.repeat(cards, samples)
        # Each component's samples are consecutive, regardless of the cards in between.
        before = self._cards.samples_before(steps.start).tolist()
        counts = np.bincount(components, minlength=len(before)).tolist()
        drawn = [
            self._entries(component, first, first + count)
            for component, (first, count) in enumerate(zip(before, counts, strict=True))
        ]
        positions = np.empty(len(components), np.int64)
        positions[np.argsort(components, kind="stable")] = np.concatenate(drawn)
        return Plan(steps, starts, components, positions)

    def plans(self, steps: range) -> Iterator[Plan]:
        """The same in blocks, so that memory does not grow with the number of steps."""
        for start in range(steps.start, steps.stop, _BLOCK):
            yield self.plan(range(start, min(start + _BLOCK, steps.stop)))

    def _entries(self, component: int, first: int, last: int) -> NDArray[np.int64]:
        """The positions of a component's samples number `first` to `last` (exclusive), counted over all epochs."""
        parts = [np.empty(0, np.int64)]
        while first < last:
            epoch, place = divmod(first, self._sizes[component])
            _, begins = self._cut(component, epoch)
            number = int(np.searchsorted(begins, place, side="right")) - 1
            begin = place - int(begins[number])
            parts.append(self._hand(component, epoch, number)[begin : begin + last - first])
            first += len(parts[-1])
        return np.concatenate(parts)

    def _hands(self, component: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """An epoch's hands in order: the first position of each, and its offset within the epoch."""
        size = self._sizes[component]
        count = -(-size // HAND)
        firsts = _order(count, self._seed, component, epoch, "hands")
        lengths = (size - 1 - firsts) // count + 1
        return firsts, np.cumsum(lengths) - lengths

    def _shuffled(self, component: int, epoch: int, number: int) -> NDArray[np.int64]:
        """A hand's positions in order, with masked ones replaced."""
        firsts, _ = self._cut(component, epoch)
        hand = np.arange(firsts[number], self._sizes[component], len(firsts))
        shown = hand[_order(len(hand), self._seed, component, epoch * len(firsts) + number)]
        mask = self._masks[component]
        if mask is None:
            return shown
        allowed = np.flatnonzero(~mask[shown])
        if not len(allowed):  # other hands have unmasked samples: a fully masked component cannot be opened
            return np.resize(self._hand(component, epoch, (number + 1) % len(firsts)), len(shown))
        following = np.searchsorted(allowed, np.arange(len(shown)))
        return shown[allowed[following % len(allowed)]]


def order_seed(seed: int, stage: str) -> int:
    """The seed of a stage's order, so that stages sharing a mixture draw in different orders."""
    return (seed * 1_000_003 + zlib.crc32(stage.encode())) % 2**63


def _order(size: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation that depends only on `key`, stable across NumPy versions: raw Philox words, sorted.

    Their low bits are replaced by their index, because sorting is faster than argsort.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    words: NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(size)
    bits = np.uint64(2 ** size.bit_length() - 1)
    words &= ~bits
    words |= np.arange(size, dtype=np.uint64)
    words.sort()
    words &= bits
    return words.view(np.int64)
