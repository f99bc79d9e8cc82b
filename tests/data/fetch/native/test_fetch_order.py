"""The order in which a table's URLs are asked for."""

import numpy as np
import pytest

from tinygptv.data.fetch.native.fetch_order import fetch_order

SITES = np.random.default_rng(0).integers(0, 2**64, 50, np.uint64)


def places(order: np.ndarray) -> np.ndarray:
    """Row → how many are asked for before it."""
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order))
    return found


def test_every_row_is_asked_for_once() -> None:
    order = fetch_order(np.random.default_rng(1).choice(SITES, 1000))
    assert sorted(order) == list(range(1000))
    assert len(fetch_order(np.empty(0, np.uint64))) == 0


def test_one_site_is_asked_in_table_order() -> None:
    assert fetch_order(np.repeat(SITES[:1], 100)).tolist() == list(range(100))


def test_of_a_table_sorted_by_site_every_stretch_holds_nearly_all_sites() -> None:
    table = np.repeat(SITES, 400)
    order = fetch_order(table)
    for stretch in table[order].reshape(-1, 400):
        _, counts = np.unique(stretch, return_counts=True)
        assert (len(counts) >= 30, counts.max() <= 0.25 * 400) == (True, True)


@pytest.mark.parametrize("sizes", ["equal", "a few large ones", "one row each"])
def test_of_a_shuffled_table_no_row_waits_for_more_than_about_five_times_as_many(sizes: str) -> None:
    chance = np.random.default_rng(2)
    weights = {"equal": np.ones(50), "a few large ones": 1.0 / np.arange(1, 51) ** 2}
    table = chance.choice(SITES, 10_000, p=weights[sizes] / weights[sizes].sum()) if sizes in weights else None
    if table is None:
        table = chance.integers(0, 2**64, 10_000, np.uint64)
    rows = np.arange(10_000)
    assert np.all(places(fetch_order(table)) <= 5.5 * rows + 200)
