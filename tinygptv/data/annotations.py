"""Annotation files in the layouts their datasets published → Samples, every record that is no use counted by reason.

A layout is a way to iterate over records and a way to turn one record into a sample. Images are looked up under every
name their dataset was published with (COCO 2014 and 2017 name the same picture differently). A sample's turns hold the
bare question, phrase or box; wordings and tags are `prompts.py`'s.
"""

import functools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinygptv.artifacts import Store, sha256_of
from tinygptv.data.prompts import Box, box_text
from tinygptv.data.shapes.files import corpus_folder
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DataError, DefinitionError
from tinygptv.locations import local_path
from tinygptv.sample import ImageReference, Sample, Turn

Record = dict[str, Any]

TASKS: dict[AnnotationFormat, tuple[Task, ...]] = {
    "cc_sbu_align": ("describe", "caption", "caption_only"),
    "llava_conversation": ("conversation",),
    "vqav2": ("vqa",),
    "aokvqa": ("vqa",),
    "refcoco": ("refer",),
    "invrefcoco": ("identify",),
    "vsr": ("statement",),
    "coco_caption": ("caption", "describe", "caption_only"),
}
"""What can be asked of each layout."""

_BOX_TOLERANCE = 1.0  # px; published boxes are rounded


class RejectedError(Exception):
    """A record that cannot be used; its message is the reason it is counted under."""


@dataclass
class Annotations:
    """What a source gave: `rows_in = len(samples) + sum(drops)`. Image paths are absolute, inside `images`."""

    images: Path
    samples: list[Sample] = field(default_factory=list)
    rows_in: int = 0
    drops: Counter[str] = field(default_factory=Counter)


def read_annotations(store: Store, name: str, source: AnnotationsSource) -> Annotations:
    """All usable samples of a source, in the order of its file.

    Raises DefinitionError for roles the layout does not have, DataError for files that are absent or cannot be parsed.
    """
    corpus = functools.partial(corpus_folder, store)
    layout = LAYOUTS[source.format]
    if set(source.files) not in layout.roles:
        expected = " or ".join(" + ".join(sorted(roles)) for roles in layout.roles)
        raise DefinitionError(
            f"source '{name}', files: found {', '.join(source.files)}; {source.format} needs {expected}"
        )
    files = {role: local_path(location, corpus) for role, location in source.files.items()}
    result = Annotations(local_path(source.images, corpus))
    folder = ImageFolder(result.images)
    seen: set[str] = set()
    for record in layout.records(files):
        result.rows_in += 1
        try:
            sample = _convert(record, layout, folder, source.split)
            if sample.key in seen:
                raise RejectedError("duplicate_key")
        except RejectedError as reason:
            result.drops[str(reason)] += 1
        else:
            seen.add(sample.key)
            result.samples.append(replace(sample, source=name))
    return result


def contents_of(source: AnnotationsSource) -> dict[str, str]:
    """Content hashes of files that no artifact stands for, so that a corrected file gives what is made of it anew."""
    outside = {role: place for role, place in source.files.items() if not place.startswith("embedded:")}
    return {role: sha256_of(local_path(place)) for role, place in outside.items()}


class ImageFolder:
    """Finds images by the names a record may give them; asks the disk once per image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._find = functools.cache(self._look_up)

    def find(self, *names: str) -> ImageReference:
        """The first of `names` that is there. Raises RejectedError."""
        if image := self._find(names):
            return image
        raise RejectedError("missing_image")

    def find_coco(self, image_id: int, *names: str) -> ImageReference:
        """A COCO image by `names` or its id, as COCO 2014 and 2017 call it. Raises RejectedError."""
        digits = f"{image_id:012d}.jpg"
        return self.find(*names, f"COCO_train2014_{digits}", f"COCO_val2014_{digits}", digits)

    def _look_up(self, names: tuple[str, ...]) -> ImageReference | None:
        paths = (self._folder / name for name in names)
        return next((ImageReference(str(path)) for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class Layout:
    """`roles`: the sets of files it can be read from; `records` of them; `convert` one, or reject it."""

    roles: tuple[set[str], ...]
    records: Callable[[dict[str, Path]], Iterator[Record]]
    convert: Callable[[Record, ImageFolder], Sample]


def _convert(record: Record, layout: Layout, folder: ImageFolder, split: str | None) -> Sample:
    try:
        if split is not None and record.get("split", split) != split:
            raise RejectedError("other_split")
        sample = layout.convert(record, folder)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise RejectedError("malformed_record") from None
    if not all(turn.answer.strip() for turn in sample.turns) or not sample.turns:
        raise RejectedError("empty_answer")
    return sample


# Iterating over records


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch the file again") from error


def _list_in(path: Path, key: str | None = None) -> list[Record]:
    content = _json(path)
    found: Any = content.get(key) if key and isinstance(content, dict) else content
    if not isinstance(found, list):
        wanted = f"an object with a list under '{key}'" if key else "a list of records"
        raise DataError(f"{path}: found {type(content).__name__}, want {wanted}; is this the right file?")
    return found


def _records(files: dict[str, Path]) -> Iterator[Record]:
    yield from _list_in(files["annotations"])


def _align_records(files: dict[str, Path]) -> Iterator[Record]:
    yield from _list_in(files["annotations"], "annotations")


def _line_records(files: dict[str, Path]) -> Iterator[Record]:
    with files["annotations"].open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{files['annotations']}, line {number}: not valid JSON ({error})") from error


def _vqa_records(files: dict[str, Path]) -> Iterator[Record]:
    """Either the official pair of files, or one file whose records hold question and answers together."""
    if "questions" not in files:
        yield from (_line_records if files["annotations"].suffix == ".jsonl" else _records)(files)
        return
    questions = {item["question_id"]: item for item in _list_in(files["questions"], "questions")}
    for annotation in _list_in(files["annotations"], "annotations"):
        yield {"question": None, **annotation, **questions.get(annotation.get("question_id"), {})}


def _caption_records(files: dict[str, Path]) -> Iterator[Record]:
    """One record per image, with all its captions."""
    captions = defaultdict(list)
    for annotation in _list_in(files["annotations"], "annotations"):
        captions[annotation["image_id"]].append(annotation["caption"].strip())
    for image in _list_in(files["annotations"], "images"):
        yield {**image, "captions": captions.pop(image["id"], [])}
    yield from ({"id": image_id, "captions": left} for image_id, left in captions.items())


# Converting one record


def _align(record: Record, images: ImageFolder) -> Sample:
    image_id = str(record["image_id"])
    return Sample(image_id, images.find(f"{image_id}.jpg"), (Turn("", record["caption"].strip()),))


def _conversation(record: Record, images: ImageFolder) -> Sample:
    said = [(turn["from"], turn["value"].replace("<image>", "").strip()) for turn in record["conversations"]]
    asked, answered = said[::2], said[1::2]
    if len(asked) != len(answered) or {who for who, _ in asked} != {"human"} or {who for who, _ in answered} != {"gpt"}:
        raise RejectedError("turns_do_not_alternate")
    turns = tuple(Turn(question, answer) for (_, question), (_, answer) in zip(asked, answered, strict=True))
    name = record.get("image")
    image = images.find(name, f"COCO_train2014_{Path(name).name}", Path(name).name) if name else None
    return Sample(str(record["id"]), image, turns)


def _vqa(record: Record, images: ImageFolder) -> Sample:
    if record["question"] is None:
        raise RejectedError("no_question")
    given = record["answers"] if "answers" in record else record["answer"]
    answers = [answer["answer"] if isinstance(answer, dict) else answer for answer in given]
    answers = [answer for answer in answers if answer.strip()]
    if not answers:
        raise RejectedError("empty_answer")
    image = images.find(record["image"]) if "image" in record else images.find_coco(record["image_id"])
    best = record.get("multiple_choice_answer") or Counter(answers).most_common(1)[0][0]
    group = record.get("question_type", "")
    return Sample(
        str(record["question_id"]), image, (Turn(record["question"], best),), group=group, answers=tuple(answers)
    )


def _aokvqa(record: Record, images: ImageFolder) -> Sample:
    if not record.get("direct_answers"):
        raise RejectedError("empty_answer")  # the test split publishes none
    answers = tuple(record["direct_answers"])
    named = (record["image"], Path(record["image"]).name) if "image" in record else ()
    image = images.find_coco(record["image_id"], *named)
    best = Counter(answers).most_common(1)[0][0]
    return Sample(str(record["question_id"]), image, (Turn(record["question"], best),), answers=answers)


def _referring(record: Record, images: ImageFolder) -> tuple[str, ImageReference, str, Box]:
    name, _, _ = record["img_id"].rpartition("_")
    phrase = record["sents"].strip()
    if not phrase:
        raise RejectedError("empty_phrase")
    x, y, width, height = record["bbox"]
    across, down = record["width"], record["height"]
    inside = min(x, y) >= -_BOX_TOLERANCE and x + width <= across + _BOX_TOLERANCE and y + height <= down + 1
    if not inside or width <= 0 or height <= 0:
        raise RejectedError("box_outside_image")
    edges = (x / across, y / down, (x + width) / across, (y + height) / down)
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in edges)
    image = images.find_coco(int(name.rpartition("_")[2]), f"{name}.jpg")
    return f"{record['img_id']}/{phrase}", image, phrase, (x0, y0, x1, y1)


def _refer(record: Record, images: ImageFolder) -> Sample:
    key, image, phrase, box = _referring(record, images)
    return Sample(key, image, (Turn(phrase, box_text(box)),), box=box)


def _identify(record: Record, images: ImageFolder) -> Sample:
    key, image, phrase, box = _referring(record, images)
    return Sample(key, image, (Turn(box_text(box), phrase),), answers=(phrase,), box=box)


def _statement(record: Record, images: ImageFolder) -> Sample:
    truth = {0: "false", 1: "true"}[record["label"]]
    key = f"{record['image']}/{record['caption']}"
    turn = Turn(record["caption"], truth)
    return Sample(key, images.find(record["image"]), (turn,), group=record["relation"], answers=(truth,))


def _captioned(record: Record, images: ImageFolder) -> Sample:
    captions = tuple(caption for caption in record["captions"] if caption)
    if not captions:
        raise RejectedError("no_caption")
    named = (record["file_name"],) if "file_name" in record else ()
    image = images.find_coco(record["id"], *named)
    return Sample(str(record["id"]), image, (Turn("", captions[0]),), answers=captions)


_ONE_FILE = ({"annotations"},)
LAYOUTS: dict[AnnotationFormat, Layout] = {
    "cc_sbu_align": Layout(_ONE_FILE, _align_records, _align),
    "llava_conversation": Layout(_ONE_FILE, _records, _conversation),
    "vqav2": Layout(({"annotations", "questions"}, {"annotations"}), _vqa_records, _vqa),
    "aokvqa": Layout(_ONE_FILE, _records, _aokvqa),
    "refcoco": Layout(_ONE_FILE, _records, _refer),
    "invrefcoco": Layout(_ONE_FILE, _records, _identify),
    "vsr": Layout(_ONE_FILE, _line_records, _statement),
    "coco_caption": Layout(_ONE_FILE, _caption_records, _captioned),
}
