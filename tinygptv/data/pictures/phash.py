"""Perceptual hash: 64 bits that stay nearly the same when a picture is scaled or coded again.

The classic DCT hash (Zauner 2010; the bits of `imagehash.phash`): a 32 x 32 grey picture, its 64 lowest frequencies,
one bit for each above their median. Within a distance of 4 to 6 it finds scaled and re-encoded copies, never crops or
mirror images; and all pictures of one plain colour have one hash.
"""

import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Pictures are brought to this size, px, before they are hashed."""

_LOW = 8
_LUMA = np.array([0.299, 0.587, 0.114])
_COSINES = np.cos(np.pi / (2 * SIDE) * np.outer(np.arange(_LOW), 2 * np.arange(SIDE) + 1))
"""The first eight rows of a DCT-II: (8, 32)."""


def phash(thumbnail: NDArray[np.uint8]) -> int:
    """The hash, as a signed 64-bit number, of an RGB picture already scaled to (32, 32, 3)."""
    grey = thumbnail @ _LUMA
    # Whole numbers: where a plain picture has nothing, rounding errors of the sums must not decide.
    frequencies = np.rint(_COSINES @ grey @ _COSINES.T).ravel()
    below, above = np.sort(frequencies)[_LOW**2 // 2 - 1 : _LOW**2 // 2 + 1]  # np.median takes ten times as long
    bits = np.packbits(frequencies > (below + above) / 2)
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def distance(one: int, other: int) -> int:
    """In how many of the 64 bits two hashes differ."""
    return ((one ^ other) & 0xFFFF_FFFF_FFFF_FFFF).bit_count()
