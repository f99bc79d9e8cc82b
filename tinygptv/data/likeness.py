"""Whether two pictures whose hashes are near are the same picture: their colours overall, and the largest difference
anywhere that no harmless change explains.

A perceptual hash knows neither colours nor small parts, and a mean over the picture knows no small parts either: road
signs, calendar leaves and slides differ in what is written on them, in a hundredth of their area. So what is compared
in the end is the worst place. Before that, brightness, contrast, a tone curve, a shift, another scale, blur and
sharpening are taken out: each changes every place in a way that a few numbers describe, and one least-squares fit finds
them. Measured in docs/near_copies.md.
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
_MAX_LUMA, _MAX_CHROMA = 45.0, 28.0
"""Levels of 255 in the worst part, of 160 x 160 and of 32 x 32; the outermost parts of luma do not count."""
_MARGIN = 3
_MAX_FITS = 16
"""A fit takes milliseconds, so that of a thousand pictures of one layout only the nearest in colour are fitted."""

Bytes = NDArray[np.uint8]

_ACROSS = ((np.arange(_LUMA_SIDE, dtype=np.float32) + 0.5) / _LUMA_SIDE - 0.5)[None, :]


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
    if np.abs(luma - other_luma).max() <= _MAX_LUMA:
        return True
    planes = luma.reshape(_LUMA_SIDE, _LUMA_SIDE), other_luma.reshape(_LUMA_SIDE, _LUMA_SIDE)
    return _unexplained(*planes) <= _MAX_LUMA or _unexplained(*planes[::-1]) <= _MAX_LUMA


def _unexplained(one: NDArray[np.float32], by: NDArray[np.float32]) -> float:
    """The largest difference between `one` and what harmless changes make of `by`, away from the border."""
    down, across = np.gradient(by)
    around = np.pad(by, 1, mode="edge")
    blur = around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:] - 4 * by
    changes = [np.ones_like(by), by, by**2 / 255, across, down, across * _ACROSS, down * _ACROSS.T, blur]
    inner = np.stack(changes)[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(changes), -1)
    wanted = one[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].ravel()
    # A plain picture leaves the fit undetermined; the smallest solution will do.
    shares = np.linalg.lstsq(inner @ inner.T, inner @ wanted, rcond=None)[0]
    return float(np.abs(wanted - shares @ inner).max())
