"""The order of training: exact shares, every sample once per epoch, the same from wherever one looks."""

import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from tinygptv import catalog
from tinygptv.data.mixtures import sampling_order
from tinygptv.data.mixtures.sampling_order import DECK, Mask, Order
from tinygptv.data.mixtures.shares import declared_shares, realised_shares
from tinygptv.definitions.mixture import Component, Mixture

KINDS = ["per_step", "per_sample"]


def mixture(how: str, *weights: float, batch_sizes: tuple[int, ...] | None = None) -> Mixture:
    components = [
        Component(source=f"source{n}", task="vqa", weight=weight, batch_size=batch_sizes[n] if batch_sizes else None)
        for n, weight in enumerate(weights)
    ]
    return Mixture.model_validate({"about": "made up", "draw": how, "components": components})


@pytest.mark.parametrize("how", KINDS)
def test_the_order_is_a_function_of_definition_seed_and_step(how: str) -> None:
    blend, sizes = mixture(how, 5, 3, 2), (40, 30, 7)
    order = Order(blend, sizes, 1, 8)
    in_order = [order.draw(step) for step in range(300)]
    assert [Order(blend, sizes, 1, 8).draw(step) for step in reversed(range(300))] == in_order[::-1]
    assert [Order(blend, sizes, 2, 8).draw(step) for step in range(300)] != in_order


def test_the_first_draws_are_these_for_ever() -> None:
    """A change here changes what every run is trained on."""
    assert Order(mixture("per_sample", 3, 1), (10, 4), 42, 8).draw(0) == [
        (0, 9),
        (0, 3),
        (0, 8),
        (0, 5),
        (1, 1),
        (0, 2),
        (0, 6),
        (0, 1),
    ]
    per_step = Order(mixture("per_step", 3, 1), (10, 4), 42, 4)
    assert per_step.draw(12_345) == [(1, 0), (1, 3), (1, 2), (1, 1)]


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("hand", [sampling_order.HAND, 16])
def test_no_sample_comes_twice_before_every_sample_came_once(
    how: str, hand: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_order, "HAND", hand)
    sizes = (40, 33, 7)
    plan = Order(mixture(how, 5, 3, 2), sizes, 9, 8).plan(range(200))
    for component, size in enumerate(sizes):
        drawn = plan.positions[plan.components == component].tolist()
        epochs = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        assert len(epochs) > 5
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs[:-1])
        assert epochs[0] != epochs[1]


def test_a_large_component_is_shuffled_in_hands_that_reach_over_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_order, "HAND", 100)
    drawn = [
        Order(mixture("per_sample", 1), (950,), seed, 950).plan(range(step, step + 1)).positions
        for seed, step in ((1, 0), (1, 1), (2, 0))
    ]
    for epoch in drawn:
        hand = epoch[:95].tolist()
        assert len({position % 10 for position in hand}) == 1 and max(hand) - min(hand) > 900
        assert hand != sorted(hand)
    assert len({int(epoch[0]) % 10 for epoch in drawn}) > 1


@pytest.mark.parametrize("how", KINDS)
def test_a_plan_of_many_steps_is_what_each_of_them_draws(how: str) -> None:
    batch_sizes = (6, 2, 4) if how == "per_step" else None
    order = Order(mixture(how, 5, 3, 2, batch_sizes=batch_sizes), (40, 33, 7), 3, 6)
    for steps in (range(0), range(5), range(990, 2_013)):
        for plan in (order.plan(steps), *order.plans(steps)):
            places = list(zip(plan.components.tolist(), plan.positions.tolist(), strict=True))
            bounds = zip(plan.starts[:-1].tolist(), plan.starts[1:].tolist(), strict=True)
            assert [places[start:end] for start, end in bounds] == [order.draw(step) for step in plan.steps]
        assert sum(len(plan.steps) for plan in order.plans(steps)) == len(steps)


def test_a_step_holds_one_component_when_drawn_per_step() -> None:
    order = Order(mixture("per_step", 1, 1, 1), (50, 50, 50), 0, 6)
    for step in range(100):
        assert len({component for component, _ in order.draw(step)}) == 1


def test_a_step_holds_as_many_samples_as_its_component_says() -> None:
    order = Order(mixture("per_step", 3, 1, batch_sizes=(2, 5)), (50, 50), 0, 6)
    sizes = {(drawn[0][0], len(drawn)) for drawn in map(order.draw, range(100))}
    assert sizes == {(0, 2), (1, 5)}


def test_shares_hold_exactly_in_every_deck() -> None:
    blend = mixture("per_sample", 0.3, 0.25, 0.15, 0.3)
    assert realised_shares(blend, 3, DECK // 10, 10) == pytest.approx([0.3, 0.25, 0.15, 0.3], abs=1e-12)
    assert realised_shares(blend, 3, 7 * DECK // 10, 10) == pytest.approx(declared_shares(blend), abs=1e-12)
    order = Order(blend, (500,) * 4, 3, 25)
    counts = Counter(component for step in range(40) for component, _ in order.draw(step))
    assert [counts[place] for place in range(4)] == [300, 250, 150, 300]


@pytest.mark.parametrize("name", ["stage4_multitask", "stage4_by_sample", "stage4_first_release"])
@pytest.mark.parametrize("draws", [10_000, 35_000, 1_000_000])
def test_shares_that_no_deck_can_hold_are_within_a_hundredth_after_ten_thousand_draws(name: str, draws: int) -> None:
    blend = catalog.mixture(name)
    for seed in range(5):
        drawn = realised_shares(blend, seed, draws, 1)
        assert drawn == pytest.approx(declared_shares(blend), rel=0.01)


def test_a_deck_is_shuffled_anew_each_time() -> None:
    order = Order(mixture("per_step", 1, 1), (9, 9), 0, 1)
    first, second = ([order.draw(deck * DECK + step)[0][0] for step in range(DECK)] for deck in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize(
    "weights", [(1.0, 2e-5), (1e9, 1e5, 1e9), (1.0,) * 7, (1.0,), (1.0,) * 1500, (100.0, *[2e-3] * 500), (1 / 3, 0.7)]
)
def test_whatever_the_weights_every_deck_holds_all_in_their_shares(weights: tuple[float, ...]) -> None:
    blend = mixture("per_step", *weights)
    least = min(declared_shares(blend))
    deck = DECK * -(-1 // (DECK * least))
    for decks in (1, 2, 1000):
        drawn = np.array(realised_shares(blend, 0, int(decks * deck), 1))
        assert drawn.sum() == pytest.approx(1)
        assert np.abs(drawn - declared_shares(blend)).max() * decks * deck < 1
        assert drawn.min() > 0


def test_a_late_step_costs_no_more_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming at step 10^9 looks at one deck, and at one epoch's cut and one hand per component, as step 0 does."""
    looked_at = []
    real = sampling_order._order
    monkeypatch.setattr(sampling_order, "_order", lambda *key: looked_at.append(key) or real(*key))
    Order(mixture("per_sample", 2, 1), (11, 13), 5, 2).draw(10**9)
    assert len(looked_at) <= 5


def test_memory_does_not_grow_with_the_component_or_the_steps() -> None:
    order = Order(mixture("per_sample", 3, 1), (115_000_000, 1_000_000), 5, 32)
    tracemalloc.start()
    drawn = sum(len(plan.positions) for plan in order.plans(range(20_000)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drawn == 640_000
    assert peak < 16e6


def masks_of(sizes: list[int], hidden: dict[int, list[int]]) -> list[Mask]:
    masks: list[Mask] = []
    for component, size in enumerate(sizes):
        mask = np.zeros(size, dtype=np.bool_)
        mask[hidden.get(component, [])] = True
        masks.append(mask if mask.any() else None)
    return masks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hand", [sampling_order.HAND, 8])
def test_a_mask_changes_only_the_places_that_would_have_shown_what_it_hides(
    kind: str, hand: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_order, "HAND", hand)
    blend, sizes, positions = mixture(kind, 3, 1), [40, 7], [3, 4, 5, 39]
    unmasked, masked = (Order(blend, sizes, 1, 8, masks) for masks in ([], masks_of(sizes, {0: positions})))
    hidden = {(0, position) for position in positions}
    changed = 0
    for step in range(60):
        assert not hidden & set(masked.draw(step))
        for before, after in zip(unmasked.draw(step), masked.draw(step), strict=True):
            assert (before == after) == (before not in hidden)
            changed += before != after
    assert changed


def test_another_hand_stands_in_for_one_of_which_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_order, "HAND", 10)
    hidden = [position for position in range(40) if position % 4 != 2]
    order = Order(mixture("per_step", 1), [40], 0, 40, masks_of([40], {0: hidden}))
    assert {position for _, position in order.draw(0)} == set(range(2, 40, 4))


def random_order(chance: random.Random) -> Order:
    """Of components, sizes, weights, batch sizes and masks of chance."""
    kind, components = chance.choice(KINDS), chance.randint(1, 6)
    sizes = [chance.choice([1, 2, 9, 50, 400]) for _ in range(components)]
    batch_sizes = None
    if kind == "per_step" and chance.random() < 0.5:
        batch_sizes = tuple(chance.randint(1, 9) for _ in range(components))
    weights = [chance.choice([0.1, 1, 7, 1 / 3, 100]) for _ in range(components)]
    blend = mixture(kind, *weights, batch_sizes=batch_sizes)
    masks = masks_of(sizes, {n: chance.sample(range(size), size // 3) for n, size in enumerate(sizes)})
    return Order(blend, sizes, chance.randrange(99), chance.randint(1, 12), chance.choice([[], masks]))


@pytest.mark.parametrize("case", range(40))
def test_a_plan_from_any_step_in_any_blocks_is_the_rest_of_the_whole(
    case: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the mixture, sizes, masks and kind of draw: whoever begins at a step needs nothing from before it."""
    chance = random.Random(case)
    monkeypatch.setattr(sampling_order, "HAND", chance.choice([8, 64, sampling_order.HAND]))
    order = random_order(chance)
    whole = order.plan(range(1_500))
    begin, size = chance.randrange(1_400), chance.randint(1, 300)
    blocks = [order.plan(range(start, min(start + size, 1_500))) for start in range(begin, 1_500, size)]
    first = whole.starts[begin]
    assert np.concatenate([block.components for block in blocks]).tolist() == whole.components[first:].tolist()
    assert np.concatenate([block.positions for block in blocks]).tolist() == whole.positions[first:].tolist()
