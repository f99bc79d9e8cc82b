"""Whether two pictures whose hashes are near are the same picture: their colours overall, and the largest difference
anywhere that no harmless change explains.

A perceptual hash knows neither colours nor small parts, and a mean over the picture knows no small parts either: road
signs, calendar leaves and slides differ only in what is written on them, in a hundredth of their area. So the worst
place decides. Before that, brightness, contrast, a tone curve, a shift, another scale, blur and sharpening are taken
out: each changes every place in a way that a few numbers describe, and a least-squares fit finds them. What that finds
and misses is measured in docs/near_copies.md.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOOK_VERSION = 1
"""Part of what names artifacts that depend on looks: raise it when other pictures are copies than before."""

_LUMA_SIDE, _CHROMA_SIDE, _COLOURS_SIDE = 160, 32, 16
COLOURS_BYTES = 3 * _COLOURS_SIDE**2
DETAIL_BYTES = _LUMA_SIDE**2 + 2 * _CHROMA_SIDE**2

_MAX_MEAN = 8.0
"""Levels of 255, root mean square over colours of 16 x 16 parts."""
_MAX_CHROMA = 28.0
"""Levels of 255 in the worst of 32 x 32 parts."""
_MAX_LUMA = {1: 45.0, 2: 30.0, 4: 20.0}
"""Levels of 255 in the worst mean of so many times so many of 160 x 160 parts: what is large may be faint."""
_MARGIN = 4
"""The outermost parts do not count: a border or a cut of a pixel falls on them."""
_LEAST_SHIFT, _MOST_SHIFT = 0.1, 8.0
"""Parts. What is shifted by more than the least is fitted again where it then lies."""
_MAX_FITS = 16
"""A fit takes milliseconds, so that of a thousand pictures of one layout only the nearest in colour are fitted."""

Bytes = NDArray[np.uint8]
Plane = NDArray[np.float32]

_PLACES = (np.arange(_LUMA_SIDE, dtype=np.float32) + 0.5) / _LUMA_SIDE - 0.5


class Look(NamedTuple):
    """What is kept of a picture to compare it with others."""

    colours: Bytes
    """(768,) mean colours of 16 x 16 parts: few bytes, which say no for most pictures."""
    detail: Bytes
    """(27648,) brightness of 160 x 160 parts, then both colour differences of 32 x 32."""


def look(image: bytes) -> Look:
    """The look of an encoded picture."""
    with Image.open(io.BytesIO(image)) as picture:
        picture.draft("RGB", (4 * _LUMA_SIDE, 4 * _LUMA_SIDE))
        pixels = picture.convert("RGB")
    colours = pixels.resize((_COLOURS_SIDE, _COLOURS_SIDE), Image.Resampling.BOX)
    # A filter that overlaps its neighbours: by means of disjoint parts a scaled copy differs in every fine texture.
    parts = pixels.resize((_LUMA_SIDE, _LUMA_SIDE), Image.Resampling.BILINEAR).convert("YCbCr")
    luma, *chroma = parts.split()
    planes = [luma, *(plane.reduce(_LUMA_SIDE // _CHROMA_SIDE) for plane in chroma)]
    return Look(np.asarray(colours).ravel(), np.concatenate([np.asarray(plane).ravel() for plane in planes]))


def is_like_any(one: Look, colours: Bytes, detail_of: Callable[[int], Bytes]) -> bool:
    """Whether `one` shows the same as any of n others: their colours, (n, 768), and the detail of each on demand."""
    mean = np.square(colours.astype(np.float32) - one.colours).mean(axis=1)
    candidates = np.flatnonzero(mean <= _MAX_MEAN**2)
    nearest = candidates[np.argsort(mean[candidates], kind="stable")][:_MAX_FITS]
    return any(_shows_the_same(one.detail, detail_of(place)) for place in nearest.tolist())


def _shows_the_same(one: Bytes, other: Bytes) -> bool:
    """In one direction or the other: a sharp picture explains its blurred copy better than that explains it."""
    luma, chroma = np.split(one.astype(np.float32), [_LUMA_SIDE**2])
    other_luma, other_chroma = np.split(other.astype(np.float32), [_LUMA_SIDE**2])
    if np.abs(chroma - other_chroma).max() > _MAX_CHROMA:
        return False
    planes = luma.reshape(_LUMA_SIDE, _LUMA_SIDE), other_luma.reshape(_LUMA_SIDE, _LUMA_SIDE)
    return _explains(*planes) or _explains(*planes[::-1])


def _explains(one: Plane, other: Plane) -> bool:
    """Whether harmless changes make `other` of `one`."""
    left, shifts = _fit(one, other)
    if _is_small(left):
        return True
    furthest = max(float(np.abs(shift).max()) for shift in shifts)
    return _LEAST_SHIFT <= furthest <= _MOST_SHIFT and _is_small(_fit(_moved(one, *shifts), other)[0])


def _fit(one: Plane, other: Plane) -> tuple[Plane, tuple[Plane, Plane]]:
    """What remains of `other` without its best approximation by changes of `one`, and how far each row and each column
    of it is shifted: the first order of Lucas and Kanade (1981), with tone and sharpness among the unknowns."""
    around = np.pad(one, 1, mode="edge")
    above, below, before, after = around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]
    down, across = (below - above) / 2, (after - before) / 2
    tone = np.stack([np.ones_like(one), one, np.square(one) / 255])
    shift = np.stack([down, down * _PLACES[:, None], across, across * _PLACES])
    blur = above + below + before + after - 4 * one
    changes = np.concatenate([tone, shift, blur[None]])
    inner = changes[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(changes), -1)
    wanted = other[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    # A plain picture leaves the fit undetermined; the smallest solution will do.
    shares = np.linalg.lstsq(inner @ inner.T, inner @ wanted.ravel(), rcond=None)[0]
    contrast = max(float(shares[1] + 2 * shares[2] * one.mean() / 255), 0.5)
    shifts = (shares[3] + shares[4] * _PLACES) / contrast, (shares[5] + shares[6] * _PLACES) / contrast
    return wanted - (shares @ inner).reshape(wanted.shape), shifts


def _moved(plane: Plane, rows: Plane, columns: Plane) -> Plane:
    """Each row and column taken from where it lies, so many parts away."""
    for shift in (rows, columns):
        place = np.clip(np.arange(_LUMA_SIDE) + shift, 0, _LUMA_SIDE - 1.001)
        first, share = place.astype(np.intp), (place % 1)[:, None].astype(np.float32)
        plane = ((1 - share) * plane[first] + share * plane[first + 1]).T
    return plane


def _is_small(left: Plane) -> bool:
    """Everywhere."""
    for part, most in _MAX_LUMA.items():
        side = len(left) // part
        if np.abs(left.reshape(side, part, side, part).mean(axis=(1, 3))).max() > most:
            return False
    return True
