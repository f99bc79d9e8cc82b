"""The order of training: exact shares, every sample once per epoch, the same from wherever one looks."""

from collections import Counter

import numpy as np
import pytest

from tinygptv.data.drawing import DECK, Mask, declared_shares, draw, realised_shares, shares_table, times_drawn
from tinygptv.definitions.mixture import Component, Mixture
from tinygptv.errors import DefinitionError


def mixture(how: str, *weights: float) -> Mixture:
    components = [Component(source=f"source{n}", task="vqa", weight=weight) for n, weight in enumerate(weights)]
    return Mixture.model_validate({"about": "made up", "draw": how, "components": components})


@pytest.mark.parametrize("how", ["per_step", "per_sample"])
def test_the_order_is_a_function_of_definition_seed_and_step(how: str) -> None:
    blend, sizes = mixture(how, 5, 3, 2), (40, 30, 7)
    in_order = [draw(blend, sizes, 1, step, 8) for step in range(300)]
    assert [draw(blend, sizes, 1, step, 8) for step in reversed(range(300))] == in_order[::-1]
    assert [draw(blend, sizes, 2, step, 8) for step in range(300)] != in_order


def test_the_first_draws_are_these_for_ever() -> None:
    """A change here changes what every run is trained on."""
    assert draw(mixture("per_sample", 3, 1), (10, 4), 42, 0, 8) == [
        (0, 9),
        (0, 3),
        (0, 8),
        (0, 5),
        (1, 1),
        (0, 2),
        (0, 6),
        (0, 1),
    ]
    assert draw(mixture("per_step", 3, 1), (10, 4), 42, 12_345, 4) == [(1, 0), (1, 3), (1, 2), (1, 1)]


@pytest.mark.parametrize("how", ["per_step", "per_sample"])
def test_no_sample_comes_twice_before_every_sample_came_once(how: str) -> None:
    blend, sizes = mixture(how, 5, 3, 2), (40, 30, 7)
    drawn: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for step in range(200):
        for component, position in draw(blend, sizes, 9, step, 8):
            drawn[component].append(position)
    for component, size in enumerate(sizes):
        epochs = [drawn[component][start : start + size] for start in range(0, len(drawn[component]), size)]
        assert len(epochs) > 5
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs[:-1])
        assert epochs[0] != epochs[1]


def test_a_step_holds_one_component_when_drawn_per_step() -> None:
    blend = mixture("per_step", 1, 1, 1)
    for step in range(100):
        assert len({component for component, _ in draw(blend, (50, 50, 50), 0, step, 6)}) == 1


def test_shares_hold_exactly_in_every_deck() -> None:
    blend = mixture("per_sample", 0.3, 0.25, 0.15, 0.3)
    assert realised_shares(blend, 3, DECK // 10, 10) == pytest.approx([0.3, 0.25, 0.15, 0.3], abs=1e-12)
    assert realised_shares(blend, 3, 7 * DECK // 10, 10) == pytest.approx(declared_shares(blend), abs=1e-12)
    counts = Counter(component for step in range(40) for component, _ in draw(blend, (500,) * 4, 3, step, 25))
    assert [counts[place] for place in range(4)] == [300, 250, 150, 300]


def test_a_deck_is_shuffled_anew_each_time() -> None:
    blend = mixture("per_step", 1, 1)
    first, second = ([draw(blend, (9, 9), 0, deck * DECK + step, 1)[0][0] for step in range(DECK)] for deck in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize(
    "weights", [(1.0, 1e-9), (1e9, 1.0, 1e9), (1.0,) * 7, (1.0,), (1.0,) * DECK, (100.0,) + (1e-4,) * 500]
)
def test_any_weights_make_a_whole_deck_in_which_all_take_part(weights: tuple[float, ...]) -> None:
    shares = realised_shares(mixture("per_step", *weights), 0, DECK, 1)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 1 / DECK
    if len(weights) < 10:
        assert shares == pytest.approx(declared_shares(mixture("per_step", *weights)), abs=2 / DECK)


def test_more_components_than_cards_are_refused() -> None:
    with pytest.raises(DefinitionError, match="1001 components"):
        draw(mixture("per_step", *[1.0] * 1001), (1,) * 1001, 0, 0, 1)


def test_a_late_step_costs_no_more_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming at step 10^9 looks at one deck and one permutation per component, as step 0 does."""
    looked_at = []
    from tinygptv.data import drawing

    real = drawing._order
    monkeypatch.setattr(drawing, "_order", lambda *key: looked_at.append(key) or real(*key))
    draw(mixture("per_sample", 2, 1), (11, 13), 5, 10**9, 2)
    assert len(looked_at) <= 4


def test_the_table_of_shares_says_how_often_each_sample_comes() -> None:
    lines = list(shares_table(mixture("per_sample", 3, 1), (750, 100), 0, 125, 8))
    assert "declared" in lines[0]
    assert lines[1].split() == ["source0", "vqa", "750", "75.00%", "75.00%", "1.00"]
    assert lines[2].split() == ["source1", "vqa", "100", "25.00%", "25.00%", "2.50"]


def masks_of(sizes: list[int], hidden: dict[int, list[int]]) -> list[Mask]:
    masks: list[Mask] = []
    for component, size in enumerate(sizes):
        mask = np.zeros(size, dtype=np.bool_)
        mask[hidden.get(component, [])] = True
        masks.append(mask if mask.any() else None)
    return masks


@pytest.mark.parametrize("kind", ["per_step", "per_sample"])
def test_a_mask_changes_only_the_places_that_would_have_shown_what_it_hides(kind: str) -> None:
    blend, sizes = mixture(kind, 3, 1), [40, 7]
    masks = masks_of(sizes, {0: [3, 4, 5, 39]})
    hidden = {(0, position) for position in (3, 4, 5, 39)}
    changed = 0
    for step in range(60):
        open_draw, masked_draw = (draw(blend, sizes, 1, step, 8, given) for given in ([], masks))
        assert not hidden & set(masked_draw)
        for before, after in zip(open_draw, masked_draw, strict=True):
            assert (before == after) == (before not in hidden)
            changed += before != after
    assert changed


@pytest.mark.parametrize("kind", ["per_step", "per_sample"])
@pytest.mark.parametrize("hidden", [{}, {0: [0, 1, 2, 11]}, {1: [0, 4]}])
@pytest.mark.parametrize("steps", [range(0), range(0, 5), range(3, 700)])
def test_what_was_drawn_can_be_counted_without_drawing_it(
    kind: str, hidden: dict[int, list[int]], steps: range
) -> None:
    blend, sizes = mixture(kind, 3, 1), [12, 5]
    masks = masks_of(sizes, hidden) if hidden else []
    drawn = Counter(place for step in steps for place in draw(blend, sizes, 9, step, 4, masks))
    counted = times_drawn(blend, sizes, 9, steps, 4, masks)
    assert [times.tolist() for times in counted] == [
        [drawn[component, position] for position in range(size)] for component, size in enumerate(sizes)
    ]
