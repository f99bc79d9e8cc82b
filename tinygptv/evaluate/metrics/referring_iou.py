"""Boxes: right from an intersection over union (IoU) of 0.5 on. Lenient: above 0.5, counted in pixels inclusively."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tinygptv.data.prompting.boxes import Box, read_box
from tinygptv.evaluate.metric import Mark, Metric, Total, Truth, mean

IOU_THRESHOLD = 0.5
_MEAN = "mean_iou"


class ReferringIou(Metric):
    """Right or wrong, and the mean IoU beside it."""

    title = "boxes with IoU ≥ 0.5"

    def unscorable(self, truth: Truth) -> str | None:
        """See Metric."""
        return "no_box" if truth.box is None else None

    def mark(self, answer: str, truth: Truth) -> Mark:
        """See Metric. Raises ValueError for an item without a box."""
        if truth.box is None:
            raise ValueError("a referring item needs a box")
        box = read_box(answer)
        if box is None:
            return Mark(0.0, 0.0, False, 0.0)
        quality = iou(box, truth.box)
        on_pixels = iou(in_pixels(box, truth.image_size), in_pixels(truth.box, truth.image_size), one=1.0)
        return Mark(float(quality >= IOU_THRESHOLD), float(on_pixels > IOU_THRESHOLD), True, quality)

    def total(self, answers: Sequence[str], truths: Sequence[Truth], marks: Sequence[Mark]) -> Total:
        """See Metric."""
        qualities = [mark.quality for mark in marks if mark.quality is not None]
        extra = {_MEAN: mean(qualities)} if qualities else {}
        return replace(super().total(answers, truths, marks), extra=extra)

    def shown(self, extra: Mapping[str, float]) -> str:
        """See Metric."""
        return f"{self.title}, mean IoU {extra[_MEAN]:.2f}" if _MEAN in extra else self.title


METRIC = ReferringIou()


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
