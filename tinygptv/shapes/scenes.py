"""The world `shapes`: coloured shapes on a 3 x 3 grid, drawn from exact ground truth.

A scene is a pure function of its split and index, so nothing about this corpus is ever stored. No scene is in two
splits: the split is a hash of the scene's *content* (what stands where), not of its index, so a held-out scene
cannot have been seen in training under another index.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from tinygptv.errors import DataError

KINDS = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
TEXTURES = ("plain", "stripes", "checks", "noise", "gradient")
SPLITS = {"pretrain": 0.6, "train": 0.2, "heldout": 0.2}
"""Which share of all possible scenes belongs to a split: bootstrap, the four stages, evaluation."""

GRID = 3
MOST_OBJECTS = 4

_RGB = {
    "red": (214, 34, 34),
    "green": (38, 160, 56),
    "blue": (38, 84, 222),
    "yellow": (246, 222, 38),
    "purple": (140, 44, 186),
    "orange": (246, 132, 22),
}
# Muted on purpose: the saturated shape colours stay visible on every pair of tones.
_TONES = ((236, 236, 232), (208, 206, 200), (220, 208, 188), (150, 152, 156), (92, 98, 106), (58, 58, 62), (24, 24, 28))
_EXTENT = {"small": (0.16, 0.19), "large": (0.26, 0.30)}
_SUPERSAMPLE = 4

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One shape. `row` and `column` count from the top left, 0..2; `box` is x0, y0, x1, y1 as fractions of the side."""

    kind: str
    colour: str
    size: str
    row: int
    column: int
    box: Box


@dataclass(frozen=True)
class Ground:
    """What the shapes stand on: two muted tones, a texture, its period as a fraction of the side, and its own seed."""

    texture: str
    tones: tuple[tuple[int, int, int], tuple[int, int, int]]
    period: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """One to four shapes that never overlap (each keeps inside its grid cell), and where in its split they are."""

    objects: tuple[SceneObject, ...]
    ground: Ground
    split: str
    index: int


def scene(split: str, index: int) -> Scene:
    """The scene number `index` of a split; the same one on every machine.

    Raises DataError for a split that does not exist or a negative index.
    """
    if split not in SPLITS or index < 0:
        raise DataError(f"no shapes scene {split}/{index}: splits are {', '.join(SPLITS)} and indices start at 0")
    attempt = 0
    while True:
        rng = random.Random(int.from_bytes(hashlib.sha256(f"{split}/{index}/{attempt}".encode()).digest()[:8]))
        objects = _place(rng)
        if split_of(objects) == split:
            return Scene(objects, _ground(rng), split, index)
        attempt += 1


def split_of(objects: Sequence[SceneObject]) -> str:
    """The split that this content belongs to, whatever its jitter, ground or order."""
    content = sorted((o.row, o.column, o.kind, o.colour, o.size) for o in objects)
    share = int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:8]) / 2**64
    for split, width in SPLITS.items():
        if share < width:
            return split
        share -= width
    return split


def draw(scene: Scene, side: int) -> Image.Image:
    """The scene as an RGB picture of side x side pixels, antialiased; the same bytes every time."""
    canvas = _draw_ground(scene.ground, side * _SUPERSAMPLE)
    pen = ImageDraw.Draw(canvas)
    for thing in scene.objects:
        x0, y0, x1, y1 = (edge * side * _SUPERSAMPLE for edge in thing.box)
        if thing.kind == "circle":
            pen.ellipse((x0, y0, x1, y1), fill=_RGB[thing.colour])
        else:
            outline = [(x0 + u * (x1 - x0), y0 + v * (y1 - y0)) for u, v in _outline(thing.kind)]
            pen.polygon(outline, fill=_RGB[thing.colour])
    return canvas.reduce(_SUPERSAMPLE)


def _place(rng: random.Random) -> tuple[SceneObject, ...]:
    # Scenes of one palette or of few kinds make "how many red objects?" interesting and wrong answers plausible.
    kinds = rng.sample(KINDS, rng.choice((1, 2, 5)))
    colours = rng.sample(COLOURS, rng.choice((1, 2, 6)))
    cells = rng.sample(range(GRID * GRID), rng.randint(1, MOST_OBJECTS))
    return tuple(_object(rng, cell, rng.choice(kinds), rng.choice(colours)) for cell in cells)


def _object(rng: random.Random, cell: int, kind: str, colour: str) -> SceneObject:
    size = rng.choice(SIZES)
    row, column = divmod(cell, GRID)
    extent = rng.uniform(*_EXTENT[size])
    room = 1 / GRID - extent
    x0 = column / GRID + room * rng.uniform(0.05, 0.95)
    y0 = row / GRID + room * rng.uniform(0.05, 0.95)
    box = (round(x0, 4), round(y0, 4), round(x0 + extent, 4), round(y0 + extent, 4))
    return SceneObject(kind, colour, size, row, column, box)


def _ground(rng: random.Random) -> Ground:
    first = rng.randrange(len(_TONES))
    second = min(max(first + rng.choice((-1, 1)), 0), len(_TONES) - 1)  # neighbouring tones: a quiet texture
    return Ground(rng.choice(TEXTURES), (_TONES[first], _TONES[second]), rng.uniform(0.08, 0.25), rng.randrange(2**32))


def _draw_ground(ground: Ground, side: int) -> Image.Image:
    first, second = (np.array(tone, dtype=np.float32) for tone in ground.tones)
    if ground.texture == "plain":
        return Image.new("RGB", (side, side), ground.tones[0])
    if ground.texture in ("stripes", "checks"):
        bands = (np.arange(side) / (side * ground.period)).astype(int) % 2
        mix = bands[None, :] ^ bands[:, None] if ground.texture == "checks" else np.broadcast_to(bands, (side, side))
        if ground.texture == "stripes" and ground.seed % 2:
            mix = mix.T
        return Image.fromarray(np.array(ground.tones, dtype=np.uint8)[mix])
    if ground.texture == "noise":
        mix = np.random.default_rng(ground.seed).random((24, 24), dtype=np.float32)
    else:
        angle = ground.seed % 360 / 180 * math.pi
        ramp = np.linspace(-0.5, 0.5, 24, dtype=np.float32)
        mix = 0.5 + ramp[None, :] * math.cos(angle) * 0.7 + ramp[:, None] * math.sin(angle) * 0.7
    tile = first + (second - first) * mix[..., None]
    return Image.fromarray(tile.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)


@lru_cache
def _outline(kind: str) -> tuple[tuple[float, float], ...]:
    """Corners of a kind, stretched to fill the unit square so that its box is exact."""
    if kind == "square":
        corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    elif kind == "triangle":
        corners = [(0.5, 0.0), (1.0, 1.0), (0.0, 1.0)]
    elif kind == "cross":
        a, b = 0.32, 0.68
        corners = [(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]
    else:
        turns = [math.pi * k / 5 for k in range(10)]
        corners = [
            (math.sin(turn) * (1, 0.42)[k % 2], -math.cos(turn) * (1, 0.42)[k % 2]) for k, turn in enumerate(turns)
        ]
    left, top = (min(corner[axis] for corner in corners) for axis in (0, 1))
    width, height = (max(corner[axis] for corner in corners) - low for axis, low in ((0, left), (1, top)))
    return tuple(((x - left) / width, (y - top) / height) for x, y in corners)
