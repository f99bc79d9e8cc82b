"""Near hashes are found among many, exactly those that comparing all with all would find."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tinygptv.data.columns import hamming
from tinygptv.data.columns.hamming import CodeFile, near_any, near_pairs

Codes = npt.NDArray[np.uint64]


def some_codes(count: int, most_flips: int) -> Codes:
    """Random codes, half of them with a few bits of another flipped."""
    chance = np.random.default_rng(count)
    codes = chance.integers(0, 2**64, count, dtype=np.uint64)
    for place in range(0, count, 2):
        codes[place] = codes[(place * 7 + 1) % count]
        for bit in chance.choice(64, chance.integers(0, most_flips + 1), replace=False):
            codes[place] ^= np.uint64(1 << int(bit))
    return np.unique(codes)


@pytest.mark.parametrize(("count", "within"), [(600, 0), (600, 4), (600, 8), (3000, 4), (2, 4), (1, 4), (0, 4)])
def test_pairs_are_those_of_comparing_all_with_all(count: int, within: int) -> None:
    codes = some_codes(count, 10)
    distances = np.bitwise_count(codes[:, None] ^ codes[None, :])
    expected = codes[np.argwhere(np.triu(distances <= within, k=1))]
    assert np.array_equal(near_pairs(codes, within), expected)


@pytest.mark.parametrize("piece", [1, 100, 10_000])
def test_pairs_on_disk_are_the_same_in_pieces_of_any_size(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hamming, "_PIECE", piece)
    codes = some_codes(60 if piece == 1 else 3000, 10)
    on_disk = CodeFile(tmp_path)
    for some in np.array_split(codes, 7):
        on_disk.append(some)
    expected = near_pairs(codes, 4)
    assert len(expected)
    assert np.array_equal(on_disk.near_pairs(4), expected)


def test_no_codes_on_disk_are_no_pairs(tmp_path: Path) -> None:
    assert CodeFile(tmp_path).near_pairs(4).shape == (0, 2)


def test_codes_near_any_of_others_are_found() -> None:
    codes = some_codes(800, 10)
    held_out, judged = codes[::5], codes[1::5]
    distances = np.bitwise_count(judged[:, None] ^ held_out[None, :])
    found = near_any(judged, held_out, 4)
    assert found.any()
    assert np.array_equal(found, (distances <= 4).any(axis=1))
    assert not near_any(judged, held_out[:0], 4).any()


def test_hashes_that_share_most_of_their_bits_are_all_compared() -> None:
    codes = np.arange(64, dtype=np.uint64)
    distances = np.bitwise_count(codes[:, None] ^ codes[None, :])
    assert len(near_pairs(codes, 3)) == np.triu(distances <= 3, k=1).sum()
