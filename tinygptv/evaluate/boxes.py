"""How well two boxes agree. A box is (x0, y0, x1, y1), in fractions of the image or in px."""

from tinygptv.data.prompting.boxes import Box


def iou(a: Box, b: Box, one: float = 0.0) -> float:
    """Intersection over union, 0..1. `one` is added to every side: old scripts count pixels inclusively and take 1."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + one
    height = min(a[3], b[3]) - max(a[1], b[1]) + one
    shared = max(width, 0.0) * max(height, 0.0)
    union = sum(_side(box[0], box[2], one) * _side(box[1], box[3], one) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def in_pixels(box: Box, size: tuple[int, int]) -> Box:
    """The box on an image of (width, height) px."""
    width, height = size
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def _side(start: float, end: float, one: float) -> float:
    """Length of a side; a box turned inside out, which a model may well write, has none."""
    return max(end - start + one, 0.0)
