"""Who hangs together, however long the chain is."""

import numpy as np

from tinygptv.data.columns.connected_components import chains_of, neighbours

PAIRS = np.array([[7, 9], [5, 7], [1, 2], [9, -4], [30, 31]])


def test_every_chain_is_named_by_its_smallest_number() -> None:
    values, chains = chains_of(PAIRS)
    assert dict(zip(values.tolist(), chains.tolist(), strict=True)) == {
        **dict.fromkeys((-4, 5, 7, 9), -4),
        **dict.fromkeys((1, 2), 1),
        **dict.fromkeys((30, 31), 30),
    }


def test_a_long_chain_in_any_order_is_one() -> None:
    numbers = np.random.default_rng(0).permutation(1000)
    _, chains = chains_of(np.stack([numbers[:-1], numbers[1:]], axis=1))
    assert set(chains.tolist()) == {0}


def test_neighbours_are_those_of_the_pairs_themselves() -> None:
    assert neighbours(PAIRS)[7] == [9, 5]
    assert -4 not in neighbours(PAIRS)[7]


def test_no_pairs_are_no_chains() -> None:
    values, chains = chains_of(np.empty((0, 2), np.int64))
    assert len(values) == len(chains) == 0
    assert neighbours(np.empty((0, 2), np.int64)) == {}
