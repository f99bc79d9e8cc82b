"""Losses and gradients are watched: what is wrong is named, and its batches can be left out."""

import math

import pytest

from tinygptv.definitions.recipe import JUDGED_AFTER, Watch
from tinygptv.train.watch import Watcher, in_words, position, skips, steps_to_skip

STEADY = [(2.0, 1.0)] * JUDGED_AFTER
WATCHFUL = Watch(loss_spike=3.0, gradient_explosion=10.0)


@pytest.mark.parametrize(
    ("loss", "norm", "labels", "event"),
    [
        (2.1, 1.1, 8, None),
        (2.1, None, 8, None),
        (math.nan, 1.0, 8, "loss_not_finite"),
        (math.inf, 1.0, 8, "loss_not_finite"),
        (2.0, math.inf, 8, "gradients_exploded"),
        (2.0, 10.5, 8, "gradients_exploded"),
        (6.5, 1.0, 8, "loss_spike"),
        (0.0, 0.0, 0, "dead_data"),
    ],
)
def test_what_goes_wrong_has_a_name(loss: float, norm: float | None, labels: int, event: str | None) -> None:
    trouble = Watcher(WATCHFUL, STEADY).judge(loss, norm, labels)
    assert (trouble and trouble.event) == event


def test_a_spike_is_measured_against_the_steps_before_it() -> None:
    trouble = Watcher(WATCHFUL, STEADY).judge(7.0, 1.0, 8)
    assert trouble is not None
    assert "the loss is 7, 3.5 times the 2 before" in trouble.message


def test_spikes_are_not_looked_for_unless_asked_nor_at_the_beginning() -> None:
    assert Watcher(Watch(), STEADY).judge(1e6, 1e6, 8) is None
    assert Watcher(WATCHFUL, STEADY[1:]).judge(1e6, 1e6, 8) is None


def test_a_loss_after_losses_of_zero_is_a_spike() -> None:
    trouble = Watcher(WATCHFUL, [(0.0, 0.0)] * JUDGED_AFTER).judge(1.0, 1.0, 8)
    assert trouble is not None
    assert "the loss is 1, after 0" in trouble.message


def test_what_is_watched_and_what_not_is_one_line() -> None:
    told = in_words(Watch(gradient_explosion=1.5), "fp32")
    assert "gradient norms above 1.5 times the median, from step 21 on" in told
    assert told.endswith("; not: loss spikes; then: halt")
    assert "not: loss spikes, gradient norms; then: roll_back" in in_words(Watch(then="roll_back"), "fp32")
    assert "; not" not in in_words(WATCHFUL, "fp32")
    assert "NaN or Inf in the gradients, except in steps that fp16 skips" in in_words(WATCHFUL, "fp16")


def test_what_was_wrong_does_not_become_what_is_usual() -> None:
    watcher = Watcher(WATCHFUL, STEADY)
    assert all(watcher.judge(7.0, 1.0, 8) for _ in range(60))


def test_batches_that_are_left_out_are_closed_up() -> None:
    assert [position(step, []) for step in range(4)] == [0, 1, 2, 3]
    assert [position(step, [2, 3]) for step in range(4)] == [0, 1, 4, 5]
    assert [position(step, [0, 2]) for step in range(4)] == [1, 3, 4, 5]


def test_a_hole_ends_with_the_step_of_the_trouble_and_begins_behind_the_checkpoint() -> None:
    assert steps_to_skip(7, 3, [], 1) == [7]
    assert steps_to_skip(7, 3, [], 3) == [5, 6, 7]
    assert steps_to_skip(4, 3, [], 9) == [3, 4]
    assert steps_to_skip(4, 3, [4], 1) == [5]


def test_holes_are_remembered_as_events() -> None:
    events = [
        {"event": "rolled_back", "skipped": [4, 5]},
        {"event": "restarted"},
        {"event": "rolled_back", "skipped": [9]},
    ]
    assert skips(events) == [4, 5, 9]
