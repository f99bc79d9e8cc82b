"""Talks: LLaVA's layout, in which users write their own too; MiniGPT-v2's multitask talks; instructions without image.

In LLaVA's layout a record is `{"id", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, …]}` with
`image`, one name or a list of them, unless it is text only. `<image>` in what a human says is where an image is shown;
images without one come first. `<box>` anywhere is one of the record's `boxes`, [x0, y0, x1, y1] in fractions of width
and height, in reading order.
"""

from collections.abc import Iterator

from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.annotations.records import ONE_FILE, Layout, Record, RejectedError, records
from tinygptv.data.boxes import Box, box_text
from tinygptv.sample import IMAGE_PLACE, ImageReference, Sample, Turn

_IMAGE, _BOX = "<image>", "<box>"


def _llava(record: Record, images: ImageFolder) -> Sample:
    given = record.get("image") or []
    names = [given] if isinstance(given, str) else given
    found = tuple(images.find(name, f"COCO_train2014_{name}", name.rpartition("/")[2]) for name in names)
    spoken = [(turn["from"], turn["value"]) for turn in record["conversations"]]
    if {who for who, _ in spoken[::2]} != {"human"} or {who for who, _ in spoken[1::2]} != {"gpt"}:
        raise RejectedError("turns_do_not_alternate")
    boxes = tuple(_box(box) for box in record.get("boxes", []))
    return _talk(str(record["id"]), found, [text for _, text in spoken], boxes)


def _multitask(record: Record, images: ImageFolder) -> Sample:
    """A talk about the COCO image of its id; who speaks follows from the order alone."""
    image_id = str(record["id"])
    image = images.find(f"COCO_train2014_{image_id}.jpg", f"{image_id}.jpg")
    return _talk(image_id, (image,), [turn["value"] for turn in record["conversations"]], ())


def _talk(key: str, images: tuple[ImageReference, ...], texts: list[str], boxes: tuple[Box, ...]) -> Sample:
    if not texts or len(texts) % 2:
        raise RejectedError("turns_do_not_alternate")
    texts = [text.replace(IMAGE_PLACE, "") for text in texts]
    if sum(text.count(_BOX) for text in texts) != len(boxes) and boxes:
        raise RejectedError("boxes_and_marks_differ")
    left = iter(boxes)
    texts = [_with_boxes(text, left) for text in texts] if boxes else texts
    # One image needs no mark: it comes first. Of several, all are shown where their marks are, or all come first.
    marks = sum(text.count(_IMAGE) for text in texts[::2])
    if len(images) > 1 and marks not in (0, len(images)):
        raise RejectedError("images_and_marks_differ")
    shown = IMAGE_PLACE if len(images) > 1 else ""
    asked = [text.replace(_IMAGE, shown).strip() for text in texts[::2]]
    answered = [text.replace(_IMAGE, "").strip() for text in texts[1::2]]
    turns = tuple(Turn(question, answer) for question, answer in zip(asked, answered, strict=True))
    return Sample(key, images, turns, boxes=boxes)


def _with_boxes(text: str, left: Iterator[Box]) -> str:
    first, *others = text.split(_BOX)
    return first + "".join(box_text(next(left)) + other for other in others)


def _box(box: list[float]) -> Box:
    x0, y0, x1, y1 = map(float, box)
    if not (0 <= x0 <= x1 <= 1 and 0 <= y0 <= y1 <= 1):
        raise RejectedError("box_outside_image")
    return x0, y0, x1, y1


def _unnatural(record: Record, images: ImageFolder) -> Sample:
    """Unnatural Instructions: the first instance, its constraints behind its instruction; text only."""
    instance = record["instances"][0]
    instruction, constraints = instance["instruction_with_input"], instance.get("constraints")
    asked = f"{instruction} {constraints}" if constraints is not None else instruction
    return Sample(asked, (), (Turn(asked, instance["output"].strip()),))


LLAVA = Layout(ONE_FILE, records, _llava)
MULTITASK = Layout(ONE_FILE, records, _multitask)
UNNATURAL = Layout(ONE_FILE, records, _unnatural)
