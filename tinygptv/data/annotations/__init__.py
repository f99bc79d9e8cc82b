"""Annotation files in the layouts their datasets published → Samples, every record that is no use counted by reason.

A layout is a way to iterate over records and a way to turn one record into a sample; those of a kind share a file.
Images are looked up under every name their dataset was published with (COCO 2014 and 2017 name the same picture
differently). A sample's turns hold the bare question, phrase or box; wordings and tags are `prompts.py`'s.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tinygptv.data.annotations import captions, conversations, grounding, questions
from tinygptv.data.annotations.fields import RejectedError, wants
from tinygptv.data.annotations.images import ImageFolder
from tinygptv.data.annotations.marks import check_written_boxes, with_images
from tinygptv.data.annotations.records import Layout, Reading, hash_of
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.source import AnnotationFormat, AnnotationsSource
from tinygptv.errors import DefinitionError
from tinygptv.sample import Sample
from tinygptv.shapes.files import corpus_folder
from tinygptv.store.artifacts import Store, sha256_of
from tinygptv.store.locations import local_path

logger = logging.getLogger(__name__)

LAYOUTS: dict[AnnotationFormat, Layout[Any]] = {
    "cc_sbu_align": captions.ALIGN,
    "coco_caption": captions.COCO,
    "coco_karpathy": captions.KARPATHY,
    "textcaps": captions.TEXTCAPS,
    "llava_conversation": conversations.LLAVA,
    "multitask_conversation": conversations.MULTITASK,
    "unnatural_instruction": conversations.UNNATURAL,
    "vqav2": questions.VQA,
    "aokvqa": questions.AOKVQA,
    "gqa": questions.GQA,
    "ocrvqa": questions.OCRVQA,
    "vsr": questions.VSR,
    "refcoco": grounding.REFER,
    "invrefcoco": grounding.IDENTIFY,
    "visual_genome": grounding.REGIONS,
    "flickr_grounded_caption": grounding.GROUNDED_CAPTION,
    "flickr_caption_to_boxes": grounding.CAPTION_TO_BOXES,
    "flickr_phrase_to_boxes": grounding.PHRASE_TO_BOXES,
}

TASKS: dict[AnnotationFormat, tuple[Task, ...]] = {
    "cc_sbu_align": ("describe", "caption", "caption_only"),
    "coco_caption": ("caption", "describe", "caption_only"),
    "coco_karpathy": ("caption", "describe", "caption_only"),
    "textcaps": ("caption", "describe", "caption_only"),
    "llava_conversation": ("conversation", "explain"),
    "multitask_conversation": ("conversation",),
    "unnatural_instruction": ("conversation",),
    "vqav2": ("vqa", "conversation"),
    "aokvqa": ("vqa",),
    "gqa": ("vqa",),
    "ocrvqa": ("vqa",),
    "vsr": ("statement",),
    "refcoco": ("refer",),
    "invrefcoco": ("identify",),
    "visual_genome": ("refer",),
    "flickr_grounded_caption": ("ground",),
    "flickr_caption_to_boxes": ("detect",),
    "flickr_phrase_to_boxes": ("detect",),
}
"""What can be asked of each layout."""


@dataclass
class Annotations:
    """What a source gave: `rows_in = len(samples) + sum(drops)`. Image paths are absolute, inside `images`. `not_read`
    counts keys and turns that were left out; `first_trouble` says of the first record dropped why."""

    images: Path
    samples: list[Sample] = field(default_factory=list)
    rows_in: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    not_read: Counter[str] = field(default_factory=Counter)
    first_trouble: str = ""


def read_annotations(
    store: Store, name: str, source: AnnotationsSource, corpus: Callable[[], Path] | None = None
) -> Annotations:
    """All usable samples of a source, in the order of its file. Raises as `AnnotationReader`."""
    reader = AnnotationReader(store, name, source, corpus)
    return Annotations(reader.images, list(reader), reader.rows_in, reader.drops, reader.not_read, reader.first_trouble)


class AnnotationReader:
    """Iterating gives a source's usable samples one by one; how many rows came in and were dropped is told beside, and
    what was not read of them (`Annotations`).

    Image paths are absolute, inside `images`; `corpus` is where embedded files lie, if it is not to be drawn whole.
    Raises DefinitionError for roles the layout does not have, DataError for files that are absent or of another shape.
    """

    def __init__(
        self, store: Store, name: str, source: AnnotationsSource, corpus: Callable[[], Path] | None = None
    ) -> None:
        corpus = corpus or functools.partial(corpus_folder, store)
        self._layout = LAYOUTS[source.format]
        if set(source.files) not in self._layout.roles:
            expected = " or ".join(" + ".join(sorted(roles)) for roles in self._layout.roles)
            raise DefinitionError(
                f"source '{name}', files: found {', '.join(source.files)}; {source.format} needs {expected}"
            )
        self._files = {role: local_path(location, corpus) for role, location in source.files.items()}
        self._name, self._format, self._split = name, source.format, source.split
        self.images = local_path(source.images, corpus)
        self.rows_in = 0
        self.drops: Counter[str] = Counter()
        self.not_read: Counter[str] = Counter()
        self.first_trouble = ""

    def __iter__(self) -> Iterator[Sample]:
        """All of them, once."""
        reading, seen = Reading(self._files, ImageFolder(self.images), self.not_read), dict[int, int]()
        for record in self._layout.records(reading):
            self.rows_in += 1
            try:
                sample = self._with_own_key(self._convert(record, reading), seen)
            except RejectedError as reason:
                self._drop(reason)
            else:
                yield replace(sample, source=self._name)
        if self.not_read:
            counts = ", ".join(f"{what} ({count})" for what, count in self.not_read.most_common())
            logger.warning("source '%s': not read: %s", self._name, counts)

    def _convert(self, record: Any, reading: Reading) -> Sample:
        if isinstance(record, RejectedError):
            raise record
        if self._split is not None and record.split not in (None, self._split):
            raise RejectedError("other_split", f"its split is '{record.split}', and '{self._split}' is wanted")
        sample = with_images(self._layout.convert(record, reading))
        _check_text(sample)
        if not all(turn.answer.strip() for turn in sample.turns) or not sample.turns:
            raise RejectedError("empty_answer")
        check_written_boxes(sample)
        return sample

    def _with_own_key(self, sample: Sample, seen: dict[int, int]) -> Sample:
        """The sample under a key that nothing before has; `seen` maps the hash of each key to that of its content."""
        key, content = sample.key, 0
        if self._layout.ids_repeat:
            own = _content_hash(sample)
            content = hash(own)
            if seen.get(hash(key), content) != content:
                key = f"{key}/{own}"
        if hash(key) in seen:
            raise RejectedError("duplicate_key", f"the key {sample.key!r} was there before")
        seen[hash(key)] = content
        return replace(sample, key=key)

    def _drop(self, reason: RejectedError) -> None:
        self.drops[str(reason)] += 1
        if not self.first_trouble:
            place = reason.place or f"record {self.rows_in} of {self._files.get('annotations') or self._files['refs']}"
            wanted = wants(reason.wanted or self._layout.parts[0])
            self.first_trouble = f"the first one dropped is {place}: {reason.detail}; {self._format} wants {wanted}"


def contents_of(source: AnnotationsSource) -> dict[str, str]:
    """Content hashes of files that no artifact stands for, so that a corrected file gives what is made of it anew."""
    outside = {role: place for role, place in source.files.items() if not place.startswith("embedded:")}
    return {role: sha256_of(local_path(place)) for role, place in outside.items()}


def _content_hash(sample: Sample) -> str:
    """The same for the same pictures and words, wherever the pictures lie."""
    texts = [Path(image.path).name for image in sample.images]
    texts += [text for turn in sample.turns for text in (turn.instruction, turn.answer)]
    return hash_of(*texts)


def _check_text(sample: Sample) -> None:
    """Raises RejectedError for text that stands for no characters: bytes that were no UTF-8, or half of a pair."""
    spoken = (text for turn in sample.turns for text in (turn.instruction, turn.answer))
    paths = (image.path for image in sample.images)
    try:
        "".join((sample.key, sample.group, *sample.answers, *spoken, *paths)).encode()
    except UnicodeEncodeError:
        raise RejectedError("not_utf8") from None
