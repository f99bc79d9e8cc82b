"""Whether two pictures with near hashes are the same picture: compares overall colours and the largest local difference
that harmless changes do not explain.

A perceptual hash captures neither colours nor small details, and a mean over the picture does not capture small details
either: road signs, calendar pages and slides differ only in their text, a hundredth of the area. So the largest local
difference decides. Before that, brightness, contrast, tone curve, shift, scale, blur and sharpening are fitted and
removed: each of them changes the whole picture in a way that a few numbers describe, found by least squares.
docs/near_copies.md reports what this finds and misses.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIGNATURE_VERSION = 1
"""Part of the hash of dependent artifacts: raise it when the set of detected copies changes."""

_LUMA_SIDE, _CHROMA_SIDE, _COLOURS_SIDE = 160, 32, 16
COLOURS_BYTES = 3 * _COLOURS_SIDE**2
DETAIL_BYTES = _LUMA_SIDE**2 + 2 * _CHROMA_SIDE**2

_MAX_MEAN = 8.0
"""Grey levels (of 255), root mean square over the mean colours of 16 x 16 cells."""
_MAX_CHROMA = 28.0
"""Grey levels (of 255), maximum over 32 x 32 cells."""
_MAX_LUMA = {1: 45.0, 2: 30.0, 4: 20.0}
"""Cell size → maximum mean difference in grey levels (of 255), over 160 x 160 cells: larger areas may differ less."""
_MARGIN = 4
"""Cells at the edge that are ignored, since a border or a crop of a pixel affects them."""
_MIN_SHIFT, _MAX_SHIFT = 0.1, 8.0
"""In cells. After a shift larger than the minimum, the fit is repeated on the shifted picture."""
_MAX_FITS = 16
"""Fits per picture, each of which takes milliseconds; only candidates nearest in colour are fitted."""

Bytes = NDArray[np.uint8]
Plane = NDArray[np.float32]

_PLACES = (np.arange(_LUMA_SIDE, dtype=np.float32) + 0.5) / _LUMA_SIDE - 0.5


class Signature(NamedTuple):
    """The data used to compare a picture with others."""

    colours: Bytes
    """(768,) mean colours of 16 x 16 cells, sufficient to rule out most pairs."""
    detail: Bytes
    """(27648,) luma of 160 x 160 cells, then both chroma planes of 32 x 32."""


def signature(image: bytes) -> Signature:
    """Compute the signature of an encoded picture."""
    with Image.open(io.BytesIO(image)) as picture:
        picture.draft("RGB", (4 * _LUMA_SIDE, 4 * _LUMA_SIDE))
        pixels = picture.convert("RGB")
    colours = pixels.resize((_COLOURS_SIDE, _COLOURS_SIDE), Image.Resampling.BOX)
    # An overlapping filter: with disjoint cells, fine textures would differ in a scaled copy.
    parts = pixels.resize((_LUMA_SIDE, _LUMA_SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    luma, *chroma = parts.split()
    planes = [luma, *(plane.reduce(_LUMA_SIDE // _CHROMA_SIDE) for plane in chroma)]
    return Signature(np.asarray(colours).ravel(), np.concatenate([np.asarray(plane).ravel() for plane in planes]))


def matches_any(one: Signature, colours: Bytes, detail_of: Callable[[int], Bytes]) -> bool:
    """Whether `one` matches any of n others, given by their colours (n, 768) and a function that loads details."""
    mean = np.square(colours.astype(np.float32) - one.colours).mean(axis=1)
    candidates = np.flatnonzero(mean <= _MAX_MEAN**2)
    nearest = candidates[np.argsort(mean[candidates], kind="stable")][:_MAX_FITS]
    return any(_shows_the_same(one.detail, detail_of(place)) for place in nearest.tolist())


def _shows_the_same(one: Bytes, other: Bytes) -> bool:
    """Checked in both directions: a sharp picture explains its blurred copy better than vice versa."""
    luma, chroma = np.split(one.astype(np.float32), [_LUMA_SIDE**2])
    other_luma, other_chroma = np.split(other.astype(np.float32), [_LUMA_SIDE**2])
    if np.abs(chroma - other_chroma).max() > _MAX_CHROMA:
        return False
    planes = luma.reshape(_LUMA_SIDE, _LUMA_SIDE), other_luma.reshape(_LUMA_SIDE, _LUMA_SIDE)
    return _explains(*planes) or _explains(*planes[::-1])


def _explains(one: Plane, other: Plane) -> bool:
    """Whether harmless changes turn `one` into `other`."""
    left, shifts = _fit(one, other)
    if _is_small(left):
        return True
    furthest = max(float(np.abs(shift).max()) for shift in shifts)
    return _MIN_SHIFT <= furthest <= _MAX_SHIFT and _is_small(_fit(_moved(one, *shifts), other)[0])


def _fit(one: Plane, other: Plane) -> tuple[Plane, tuple[Plane, Plane]]:
    """Approximate `other` by harmless changes of `one`; returns the residual and the shift of each row and column.

    First-order image registration (Lucas and Kanade, 1981) with tone and sharpness among the unknowns.
    """
    around = np.pad(one, 1, mode="edge")
    above, below, before, after = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    down, across = (below - above) / 2, (after - before) / 2
    tone = np.stack([np.ones_like(one), one, np.square(one) / 255])
    shift = np.stack([down, down * _PLACES[:, None], across, across * _PLACES])
    blur = above + below + before + after - 4 * one
    changes = np.concatenate([tone, shift, blur[None]])
    inner = changes[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(changes), -1)
    wanted = other[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    # For a plain picture the fit is underdetermined; lstsq returns the minimum-norm solution.
    shares = np.linalg.lstsq(inner @ inner.T, inner @ wanted.ravel(), rcond=None)[0]
    contrast = max(float(shares[1] + 2 * shares[2] * one.mean() / 255), 0.5)
    shifts = (shares[3] + shares[4] * _PLACES) / contrast, (shares[5] + shares[6] * _PLACES) / contrast
    return wanted - (shares @ inner).reshape(wanted.shape), shifts


def _moved(plane: Plane, rows: Plane, columns: Plane) -> Plane:
    """Resample rows and columns, shifted by so many cells."""
    for shift in (rows, columns):
        place = np.clip(np.arange(_LUMA_SIDE) + shift, 0, _LUMA_SIDE - 1.001)
        first, share = place.astype(np.intp), (place % 1)[:, None].astype(np.float32)
        plane = ((1 - share) * plane[first] + share * plane[first + 1]).T
    return plane


def _is_small(left: Plane) -> bool:
    """Whether the residual is below the limits everywhere, at every cell size."""
    for part, most in _MAX_LUMA.items():
        side = len(left) // part
        if np.abs(left.reshape(side, part, side, part).mean(axis=(1, 3))).max() > most:
            return False
    return True
