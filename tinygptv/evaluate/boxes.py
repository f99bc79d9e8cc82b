"""Boxes as the model writes them, and how well two agree. A box is (x0, y0, x1, y1) in fractions of the image."""

import re

Box = tuple[float, float, float, float]

_BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")


def parse_box(text: str) -> Box | None:
    """The first `{<x0><y0><x1><y1>}` (integers 0..100) of an answer; None without one, or if it has no area."""
    if not (found := _BOX.search(text.replace(" ", ""))):
        return None
    x0, y0, x1, y1 = (int(edge) / 100 for edge in found.groups())
    return (x0, y0, x1, y1) if x0 < x1 <= 1 and y0 < y1 <= 1 else None


def iou(a: Box, b: Box, one: float = 0.0) -> float:
    """Intersection over union. `one` is added to every side: old scripts count pixels inclusively and take 1."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + one
    height = min(a[3], b[3]) - max(a[1], b[1]) + one
    shared = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def in_pixels(box: Box, size: tuple[int, int]) -> Box:
    """The box on an image of (width, height) px."""
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height
