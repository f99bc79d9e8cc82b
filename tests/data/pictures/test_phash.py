"""The hash is the one that others compute, and near for what looks the same."""

import numpy as np
import pytest
import scipy.fft

from tinygptv.data.pictures.phash import SIDE, distance, phash


def thumbnail(seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    shapes, grain = chance.normal(size=(4, 4, 3)), chance.normal(size=(SIDE, SIDE, 3))
    return np.clip(128 + 40 * np.kron(shapes, np.ones((8, 8, 1))) + 15 * grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_the_bits_are_those_of_the_classic_definition(seed: int) -> None:
    """`imagehash.phash`: two DCTs, the 8 x 8 lowest frequencies, what is above their median."""
    grey = thumbnail(seed) @ np.array([0.299, 0.587, 0.114])
    lowest = scipy.fft.dct(scipy.fft.dct(grey, axis=0), axis=1)[:8, :8]
    bits = "".join("1" if bit else "0" for bit in (lowest > np.median(lowest)).ravel())
    assert phash(thumbnail(seed)) & 0xFFFF_FFFF_FFFF_FFFF == int(bits, 2)


def test_a_perceptual_hash_fits_a_signed_64_bit_column() -> None:
    hashes = [phash(thumbnail(seed)) for seed in range(20)]
    assert min(hashes) >= -(2**63) and max(hashes) < 2**63
    assert min(hashes) < 0


def test_noise_changes_few_bits_and_another_picture_many() -> None:
    first = thumbnail(0)
    noisy = np.clip(first + np.random.default_rng(9).normal(0, 4, first.shape), 0, 255).astype(np.uint8)
    assert distance(phash(first), phash(noisy)) <= 4
    assert min(distance(phash(first), phash(thumbnail(seed))) for seed in range(1, 8)) >= 14


@pytest.mark.parametrize(("one", "other", "bits"), [(0, 0, 0), (-1, 0, 64), (5, 6, 2), (-(2**63), 0, 1), (-1, 1, 63)])
def test_distance_counts_bits_whatever_the_sign(one: int, other: int, bits: int) -> None:
    assert distance(one, other) == distance(other, one) == bits


def test_plain_pictures_have_one_hash() -> None:
    assert {phash(np.full((SIDE, SIDE, 3), level, np.uint8)) for level in (1, 10, 77, 200, 255)} == {-(2**63)}
