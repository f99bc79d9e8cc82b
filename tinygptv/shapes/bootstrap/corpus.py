"""Scenes as tensors: pixel values, what covers each patch, what stands in each grid cell, padded text."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tinygptv.shapes.scenes import COLOURS, GRID, KINDS, SIZES, Box, Scene, SceneObject, draw, scene

IGNORE = -100
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, as everywhere else in the product
_STD = (0.26862954, 0.26130258, 0.27577711)
_WAVES = (1, 2, 4)
BOX_CODE = 4 * (1 + 2 * len(_WAVES))
_PARTS = {"kind": len(KINDS) + 1, "colour": len(COLOURS) + 1, "size": len(SIZES) + 1, "row": GRID, "column": GRID}


def batch_of_scenes(split: str, step: int, size: int) -> list[Scene]:
    """The scenes of a step: always new ones, so that nothing can be learned by heart."""
    return [scene(split, step * size + place) for place in range(size)]


def crowded(scenes: Sequence[Scene], together: int) -> list[Scene]:
    """Merge every `together` scenes into one of up to nine objects; of two in the same cell the first stays.

    More to learn from each picture. None of these is a scene of any split unless it is one of `scenes`.
    """
    merged = []
    for first in range(0, len(scenes), together):
        cells: dict[tuple[int, int], SceneObject] = {}
        for picture in scenes[first : first + together]:
            for thing in picture.objects:
                cells.setdefault((thing.row, thing.column), thing)
        merged.append(replace(scenes[first], objects=tuple(cells.values())))
    return merged


def rng_of(purpose: str, step: int) -> random.Random:
    """The random choices of a step; they depend on nothing before it."""
    return random.Random(f"{purpose} {step}")


def pixel_values(scenes: Sequence[Scene], side: int) -> Tensor:
    """Pictures of side x side px, normalised as for CLIP: (B, 3, side, side)."""
    pixels = np.stack([np.asarray(draw(picture, side)) for picture in scenes])
    values = (pixels.astype(np.float32) / 255 - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
    return torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()


def box_code(box: Box) -> list[float]:
    """A box as numbers that a linear map can turn into digits: each edge with sines and cosines of a few periods."""
    edges = np.array(box)
    turns = 2 * np.pi * np.outer(_WAVES, edges)
    return np.concatenate([edges[None], np.sin(turns), np.cos(turns)]).ravel().tolist()


@dataclass(frozen=True)
class ObjectTargets:
    """For each of B x P places, which object is there: class indices (the last one: none) and its box code."""

    classes: Tensor  # (B, P, parts); row and column are IGNORE where there is nothing
    codes: Tensor  # (B, P, BOX_CODE)


class ObjectHead(nn.Module):
    """A linear probe trained along: what stands here, and where exactly its box is. Thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(_PARTS.values()) + BOX_CODE)

    def forward(self, features: Tensor, targets: ObjectTargets) -> tuple[Tensor, dict[str, float]]:
        """Loss, and the accuracy of each part where there is an object: (B, P, D) -> scalar."""
        *logits, codes = self.linear(features).split([*_PARTS.values(), BOX_CODE], dim=-1)
        occupied = targets.classes[..., 0] != len(KINDS)
        error = (codes - targets.codes)[occupied]
        loss = 2 * error.square().mean()
        accuracy = {"box_error": error[:, :4].detach().abs().mean().item()}
        for place, (part, part_logits) in enumerate(zip(_PARTS, logits, strict=True)):
            target = targets.classes[..., place]
            weight = 2 if part == "kind" else 1  # by far the hardest
            part_loss = nn.functional.cross_entropy(part_logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE)
            loss = loss + weight * part_loss
            right = part_logits.detach().argmax(dim=-1) == target
            accuracy[part] = right[occupied].float().mean().item()
            if part == "kind":
                found = (part_logits.detach().argmax(dim=-1) != len(KINDS)) == occupied
                accuracy["count"] = found.all(dim=1).float().mean().item()
        return loss, accuracy


def patch_targets(scenes: Sequence[Scene], grid: int) -> ObjectTargets:
    """What covers each of grid x grid patches: the object with most overlap, if it covers a tenth of the patch."""
    low = np.arange(grid) / grid
    places: list[list[SceneObject | None]] = []
    for picture in scenes:
        boxes = np.array([thing.box for thing in picture.objects])
        wide, high = (
            np.clip(np.minimum(boxes[:, far, None], low + 1 / grid) - np.maximum(boxes[:, near, None], low), 0, None)
            for near, far in ((0, 2), (1, 3))
        )
        overlap = (high[:, :, None] * wide[:, None, :]).reshape(len(boxes), -1) * grid * grid
        best, most = overlap.argmax(axis=0), overlap.max(axis=0)
        places.append([picture.objects[b] if m > 0.1 else None for b, m in zip(best, most, strict=True)])
    return object_targets(places)


def cell_targets(scenes: Sequence[Scene]) -> ObjectTargets:
    """What stands in each of the nine cells, row by row."""
    places: list[list[SceneObject | None]] = []
    for picture in scenes:
        cells: list[SceneObject | None] = [None] * (GRID * GRID)
        for thing in picture.objects:
            cells[thing.row * GRID + thing.column] = thing
        places.append(cells)
    return object_targets(places)


def pad(sequences: Iterable[Sequence[float]], value: float) -> Tensor:
    """Right-pad sequences to a rectangle (B, T)."""
    tensors = [torch.tensor(sequence) for sequence in sequences]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def object_targets(places: list[list[SceneObject | None]]) -> ObjectTargets:
    """What stands in each of B x P places, if anything."""
    nothing = [len(KINDS), len(COLOURS), len(SIZES), IGNORE, IGNORE]
    known = {thing: (_classes(thing), box_code(thing.box)) for row in places for thing in row if thing}
    empty = (nothing, [0.0] * BOX_CODE)
    rows = [[known[thing] if thing else empty for thing in row] for row in places]
    return ObjectTargets(
        torch.tensor([[classes for classes, _ in row] for row in rows]),
        torch.tensor([[code for _, code in row] for row in rows]),
    )


def _classes(thing: SceneObject) -> list[int]:
    kind, colour, size = KINDS.index(thing.kind), COLOURS.index(thing.colour), SIZES.index(thing.size)
    return [kind, colour, size, thing.row, thing.column]
