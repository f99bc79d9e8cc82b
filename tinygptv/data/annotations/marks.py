"""Image and box marks in texts, checked against a record's images and boxes."""

import re
from collections.abc import Iterator
from dataclasses import replace

from tinygptv.data.annotations.fields import RejectedError
from tinygptv.data.prompting.boxes import CODECS, Box, box_text
from tinygptv.sample import IMAGE_PLACE, Sample, Turn

_IMAGE = re.compile(rf"<image>|(?:<Img>)?{IMAGE_PLACE}(?:</Img>)?", re.IGNORECASE)
_BOX = "<box>"
_UNKNOWN = re.compile(r"<(video|audio|bbox|ref-object)>|<(img)>[^<]*</img>|<\|?(image)[ _-]?\d+\|?>", re.IGNORECASE)
"""Marks of other families: ms-swift's media and boxes, Qwen-VL's named pictures, Phi-3's numbered ones."""


def has_marks(text: str) -> bool:
    """Whether a text contains a mark for an image or a box."""
    return bool(_IMAGE.search(text) or _UNKNOWN.search(text) or _BOX in text)


def with_images(sample: Sample) -> Sample:
    """Replace image marks by image places; the mark of a single image is removed, since the image comes first anyway.

    Raises RejectedError for marks in answers, unknown marks, and a number of marks other than the number of images;
    without any mark, all images come first.
    """
    asked = "\n".join(turn.instruction for turn in sample.turns)
    answered = "\n".join((*(turn.answer for turn in sample.turns), *sample.answers))
    if "<" not in asked and "<" not in answered:  # the common case
        return sample
    if _IMAGE.search(answered):
        raise RejectedError("image_mark_in_answer", "an answer contains an image mark")
    if unknown := _UNKNOWN.search(asked):
        raise RejectedError(f"unknown_mark_{unknown[unknown.lastindex or 0].lower()}", f"unknown mark {unknown[0]!r}")
    marks = len(_IMAGE.findall(asked))
    if marks not in (0, len(sample.images)):
        raise RejectedError("images_and_marks_differ", f"{marks} image marks for {len(sample.images)} images")
    if not marks:
        return sample
    shown = IMAGE_PLACE if len(sample.images) > 1 else ""
    turns = (Turn(_IMAGE.sub(shown, turn.instruction).strip(), turn.answer) for turn in sample.turns)
    return replace(sample, turns=tuple(turns))


def with_boxes(texts: list[str], boxes: tuple[Box, ...]) -> list[str]:
    """Replace each `<box>` by the next box. Raises RejectedError if their numbers differ."""
    marks = sum(text.count(_BOX) for text in texts)
    if marks != len(boxes):
        raise RejectedError("boxes_and_marks_differ", f"{marks} box marks for {len(boxes)} boxes")
    left = iter(boxes)
    return [_written(text, left) for text in texts] if boxes else texts


def check_written_boxes(sample: Sample) -> None:
    """Raise RejectedError for a box in a text that is outside the image, or has no area when written in percent."""
    spoken = (text for turn in sample.turns for text in (turn.instruction, turn.answer))
    for text in (*spoken, *sample.answers):
        for box in CODECS["percent"].read(text) if "{" in text else ():
            if max(box) > 1 or box[0] > box[2] or box[1] > box[3]:
                raise RejectedError("box_outside_image", f"the box {box_text(box)} is invalid")
            if box[0] == box[2] or box[1] == box[3]:
                raise RejectedError("box_too_small", f"the box {box_text(box)} has no area in percent")


def _written(text: str, left: Iterator[Box]) -> str:
    first, *others = text.split(_BOX)
    return first + "".join(box_text(next(left)) + other for other in others)
