"""The order in which training draws from a mixture: a pure function of (definition, sizes, seed, step).

No worker, rank or restart has a say in it, and any step can be asked what it used. Three ideas make it exact and cheap:

- *Decks.* Choices of a component are cards. A deck of 1,000 is shuffled by its number, and holds so many cards of each
  component that all decks up to its end together are as near to the declared shares as whole cards can be. So how
  often a component came before any card is one multiplication and one count, never a replay.
- *Epochs.* A component's n-th sample is entry n % size of the order that belongs to its epoch n // size. So nothing
  comes twice before everything came once.
- *Hands.* An epoch is shuffled in hands of at most 131,072 samples, so that memory stays small however large the
  component is. One that has more is cut into hands that each take every k-th sample; an epoch shuffles the hands, too.

What is masked, because somebody asked for its removal, is never drawn: the next entry of its hand that is not masked
stands in for it. So a mask changes only the places that would have shown what it hides, in any epoch.

A card is a step (`per_step`, as the reference trains: a batch holds one component) or a sample (`per_sample`).
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
"""Cards of a deck, or a multiple: so many that the least component has one in each."""

HAND = 2**17
"""Samples of a component that are shuffled at a time; 1 MB each."""

_BLOCK = 1000
_KEPT_DECKS = 4

Mask = NDArray[np.bool_] | None
"""TRUE for each position of a component that must not be drawn; None if all may be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The N samples that neighbouring steps show, in order; those of the n-th step lie from starts[n] to starts[n + 1].

    components (N,) int16 and positions (N,) int64 within them; starts (steps + 1,) int64.
    """

    steps: range
    starts: NDArray[np.int64]
    components: NDArray[np.int16]
    positions: NDArray[np.int64]


class Cards:
    """Which component every card of a mixture names, and how many samples that makes.

    `batch` is the stage's; components that hold a batch size of their own keep to that.
    """

    def __init__(self, mixture: Mixture, seed: int, batch: int) -> None:
        weights = [component.weight for component in mixture.components]
        self._shares = np.array(weights) / math.fsum(weights)
        self._size = DECK * math.ceil(1 / (DECK * self._shares.min()))
        self._seed = seed
        self._dealt = functools.lru_cache(maxsize=_KEPT_DECKS)(self._apportioned)
        self._deck = functools.lru_cache(maxsize=_KEPT_DECKS)(self._shuffled)
        per_step = mixture.draw == "per_step"
        self.per_step = 1 if per_step else batch
        samples = [component.batch_size or batch for component in mixture.components]
        self.samples = np.array(samples if per_step else [1] * len(weights))
        """(components,) samples that a card of each stands for."""

    def of(self, steps: range) -> NDArray[np.int16]:
        """The cards of some steps, as numbers of components."""
        first, last = steps.start * self.per_step, steps.stop * self.per_step
        decks = range(first // self._size, -(-last // self._size))
        return np.concatenate(
            [np.empty(0, np.int16)]
            + [self._deck(deck)[max(first - deck * self._size, 0) : last - deck * self._size] for deck in decks]
        )

    def samples_before(self, step: int) -> NDArray[np.int64]:
        """(components,) How many samples of each the steps before `step` draw."""
        deck, place = divmod(step * self.per_step, self._size)
        begun = np.bincount(self._deck(deck)[:place], minlength=len(self._shares)) if place else 0
        return (self._dealt(deck) + begun) * self.samples

    def _apportioned(self, decks: int) -> NDArray[np.int64]:
        """Cards of each component in the first decks, by largest remainder."""
        exact = decks * self._size * self._shares
        counts = np.floor(exact).astype(np.int64)
        missing = decks * self._size - counts.sum()
        counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
        return counts

    def _shuffled(self, deck: int) -> NDArray[np.int16]:
        # Never negative: a share of a deck is at least one card, and no remainder moves a sum by more.
        counts = self._dealt(deck + 1) - self._dealt(deck)
        components = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        return components[_order(self._size, self._seed, -1, deck)]


class Order:
    """What every step of a stage draws: the same for any number of ranks or workers, and for any way to get there.

    `sizes` counts each component's samples, masked ones included; each component has a mask, or none has.
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
        """All samples of neighbouring steps at once."""
        cards = self._cards.of(steps)
        samples = self._cards.samples[cards]
        starts = np.concatenate([[0], np.cumsum(samples)])[:: self._cards.per_step]
        components = np.repeat(cards, samples)
        # Each component's samples follow one another, whatever lies between them.
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
        """The same block by block, so that any number of steps needs the memory of a thousand."""
        for start in range(steps.start, steps.stop, _BLOCK):
            yield self.plan(range(start, min(start + _BLOCK, steps.stop)))

    def _entries(self, component: int, first: int, last: int) -> NDArray[np.int64]:
        """The positions that a component shows from its `first` sample to before its `last`, counted over all epochs.

        Its hands are looked up one after another.
        """
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
        """An epoch's hands in order: the first position of each, and the place in the epoch where it begins."""
        size = self._sizes[component]
        count = -(-size // HAND)
        firsts = _order(count, self._seed, component, epoch, "hands")
        lengths = (size - 1 - firsts) // count + 1
        return firsts, np.cumsum(lengths) - lengths

    def _shuffled(self, component: int, epoch: int, number: int) -> NDArray[np.int64]:
        """A hand's positions in their order, with stand-ins for what is masked."""
        firsts, _ = self._cut(component, epoch)
        hand = np.arange(firsts[number], self._sizes[component], len(firsts))
        shown = hand[_order(len(hand), self._seed, component, epoch * len(firsts) + number)]
        mask = self._masks[component]
        if mask is None:
            return shown
        allowed = np.flatnonzero(~mask[shown])
        if not len(allowed):  # of one hand among many: a component of which nothing is left cannot be opened
            return np.resize(self._hand(component, epoch, (number + 1) % len(firsts)), len(shown))
        following = np.searchsorted(allowed, np.arange(len(shown)))
        return shown[allowed[following % len(allowed)]]


def order_seed(seed: int, stage: str) -> int:
    """The seed of a stage's order: stages that share a mixture must not walk through it in the same order."""
    return (seed * 1_000_003 + zlib.crc32(stage.encode())) % 2**63


def _order(size: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation that depends on `key` alone, in every version of NumPy: raw Philox words, sorted.

    Their last bits give way to their numbers, for sorting words is faster than finding out how they would be sorted.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    words: NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest[:16])).random_raw(size)
    bits = np.uint64(2 ** size.bit_length() - 1)
    words &= ~bits
    words |= np.arange(size, dtype=np.uint64)
    words.sort()
    words &= bits
    return words.view(np.int64)
