"""Marks in texts against what a record holds: as many images as marks of images, as many boxes as marks of boxes."""

import re
from collections.abc import Iterator
from dataclasses import replace

from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.prompting.boxes import CODECS, Box, box_text
from tinygptv.sample import IMAGE_PLACE, Sample, Turn

_IMAGE = re.compile(rf"<image>|(?:<Img>)?{IMAGE_PLACE}(?:</Img>)?", re.IGNORECASE)
_BOX = "<box>"
_UNKNOWN = re.compile(r"<(video|audio|bbox|ref-object)>|<(img)>[^<]*</img>|<\|?(image)[ _-]?\d+\|?>", re.IGNORECASE)
"""Marks of other families: ms-swift's media and boxes, Qwen-VL's pictures by name, Phi-3's numbered ones."""


def has_marks(text: str) -> bool:
    """Whether a text shows an image or a box."""
    return bool(_IMAGE.search(text) or _UNKNOWN.search(text) or _BOX in text)


def with_images(sample: Sample) -> Sample:
    """The sample with its marks of images as the places of several, or without those of the only one, which comes
    first anyway. Raises RejectedError for marks in answers, marks of what no layout reads, and any other number of
    marks than of images; none at all means that all images come first."""
    asked = "\n".join(turn.instruction for turn in sample.turns)
    answered = "\n".join((*(turn.answer for turn in sample.turns), *sample.answers))
    if "<" not in asked and "<" not in answered:  # most are without
        return sample
    if _IMAGE.search(answered):
        raise RejectedError("image_mark_in_answer", "an answer holds the mark of an image")
    if unknown := _UNKNOWN.search(asked):
        raise RejectedError(f"unknown_mark_{unknown[unknown.lastindex or 0].lower()}", f"nothing reads {unknown[0]!r}")
    marks = len(_IMAGE.findall(asked))
    if marks not in (0, len(sample.images)):
        raise RejectedError("images_and_marks_differ", f"{marks} marks of images, {len(sample.images)} images")
    if not marks:
        return sample
    shown = IMAGE_PLACE if len(sample.images) > 1 else ""
    turns = (Turn(_IMAGE.sub(shown, turn.instruction).strip(), turn.answer) for turn in sample.turns)
    return replace(sample, turns=tuple(turns))


def with_boxes(texts: list[str], boxes: tuple[Box, ...]) -> list[str]:
    """Texts with each `<box>` as the next of the boxes. Raises RejectedError for other than as many."""
    marks = sum(text.count(_BOX) for text in texts)
    if marks != len(boxes):
        raise RejectedError("boxes_and_marks_differ", f"{marks} marks of boxes, {len(boxes)} boxes")
    left = iter(boxes)
    return [_written(text, left) for text in texts] if boxes else texts


def check_written_boxes(sample: Sample) -> None:
    """Raises RejectedError for a box in a text that is outside the image, or that two digits leave without an area."""
    spoken = (text for turn in sample.turns for text in (turn.instruction, turn.answer))
    for text in (*spoken, *sample.answers):
        for box in CODECS["percent"].read(text) if "{" in text else ():
            if max(box) > 1 or box[0] > box[2] or box[1] > box[3]:
                raise RejectedError("box_outside_image", f"the box {box_text(box)} is none")
            if box[0] == box[2] or box[1] == box[3]:
                raise RejectedError("box_too_small", f"the box {box_text(box)} has no area in hundredths")


def _written(text: str, left: Iterator[Box]) -> str:
    first, *others = text.split(_BOX)
    return first + "".join(box_text(next(left)) + other for other in others)
