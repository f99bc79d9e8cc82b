"""Turns → the exact text a model reads: task tags, instruction wordings, the chat template, and boxes as text.

What differs between families is data, `definitions/template.py`. A rendered prompt is one string with `<ImageHere>`
where the image's tokens go; the pieces around it are tokenised apart, as the published models were trained. Sources:
MiniGPT-4 `prompts/alignment.txt`, MiniGPT-v2 `datasets/datasets/*.py` and `blip_processors.py`, which TinyGPT-V (arXiv
2312.16862) uses unchanged.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tinygptv.data.prompting.boxes import respell
from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.definitions.template import IMAGES, INSTRUCTION, NUMBER
from tinygptv.sample import IMAGE_PLACE, Sample, Turn

WORDINGS: dict[Task, tuple[str, ...]] = {
    "caption_only": ("{}",),
    "describe": (
        "Describe this image in detail.",
        "Take a look at this image and describe what you notice.",
        "Please provide a detailed description of the picture.",
        "Could you describe the contents of this image for me?",
    ),
    "caption": (
        "[caption] Briefly describe this image.",
        "[caption] Provide a concise depiction of this image.",
        "[caption] Present a short description of this image.",
        "[caption] Summarize this image in a few words.",
        "[caption] A short image caption:",
    ),
    "vqa": ("[vqa] Based on the image, respond to this question with a short answer: {}", "[vqa] {}"),
    "statement": ("[vqa] Based on the image, is this statement true or false? {}",),
    "refer": (
        "[refer] give me the location of {}",
        "[refer] {}",
        "[refer] where is {} ?",
        "[refer] from this image, tell me the location of {}",
        "[refer] the location of {} is",
        "[refer] could you tell me the location for {} ?",
        "[refer] where can I locate the {} ?",
    ),
    "identify": (
        "[identify] what object is in this location {}",
        "[identify] {}",
        "[identify] identify the object present at this location {}",
        "[identify] what is it in {}",
        "[identify] describe this object in {}",
        "[identify] this {} is",
        "[identify] the object in {} is",
    ),
    "ground": (
        "[grounding] please describe this image in details",
        "[grounding] describe this image as detailed as possible",
        "[grounding] summarize this image in details",
        "[grounding] give a thorough description of what you see in this image",
    ),
    "detect": ("[detection] {}",),
    "conversation": ("{}",),
    "explain": ("{}",),
}
"""How MiniGPT-v2 asks each task, `{}` standing for the sample's own instruction, and so do families whose template has
no words of its own for it. The first wording is the evaluation's."""

# Which sides of a turn the published readers send through their caption processor.
_PLAIN_INSTRUCTIONS = frozenset({"vqa", "refer", "explain"})
_PLAIN_ANSWERS = frozenset({"caption_only", "caption", "vqa", "identify"})

_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_MOST_WORDS = 50


def render(
    sample: Sample,
    task: Task,
    inputs: Inputs,
    rng: random.Random | None = None,
    wording_rng: random.Random | None = None,
) -> tuple[Turn, ...]:
    """The sample's turns as a model learns them: the whole prompt, image place included, and the answer.

    `rng` draws the wording and one of the accepted answers; without it both are the first. `wording_rng` draws the
    wording in its place, for batches that share one. With no template, and for `caption_only`, the prompt is the image
    alone and only the first turn remains, as it does for `explain`.
    """
    drawer, wordings = wording_rng or rng, _wordings(task, inputs)
    wording = drawer.choice(wordings) if drawer else wordings[0]
    spelled = _spelled(sample, inputs)
    return _rendered(spelled, task, inputs, wording, _answer(spelled, task, inputs, rng))


def renderings(sample: Sample, task: Task, inputs: Inputs) -> Iterator[tuple[Turn, ...]]:
    """Everything that `render` may give: the sample in each wording, with each of its accepted answers."""
    spelled = _spelled(sample, inputs)
    answers = [replace(spelled, answers=(answer,)) for answer in dict.fromkeys(spelled.answers)] or [spelled]
    for wording, one in itertools.product(_wordings(task, inputs), answers):
        yield _rendered(one, task, inputs, wording, _answer(one, task, inputs, random.Random()))


def _rendered(sample: Sample, task: Task, inputs: Inputs, wording: str, first_answer: str) -> tuple[Turn, ...]:
    if inputs.template is None or task == "caption_only":
        return (Turn(_bare_images(sample, inputs), first_answer),)
    # The readers of single descriptions and of text without an image do not add this space, all others do.
    spaced = "space_after_instruction" in inputs.oddities and bool(sample.images) and task != "describe"
    rendered = []
    turns = sample.turns[:1] if task == "explain" else sample.turns
    for number, turn in enumerate(turns):
        template = inputs.later_template if number and inputs.later_template else inputs.template
        prompt = _prompt(sample, number, task, inputs, template, wording, " " if spaced else "")
        rendered.append(Turn(prompt, turn.answer if number else first_answer))
    return tuple(rendered)


def ask(sample: Sample, task: Task, inputs: Inputs) -> str:
    """The prompt to be answered: the sample's first turn in the evaluation wording and the template for asking."""
    template = inputs.asking_template or inputs.template
    if template is None or task == "caption_only":
        return _bare_images(sample, inputs)
    return _prompt(_spelled(sample, inputs), 0, task, inputs, template, _wordings(task, inputs)[0])


def plain(text: str) -> str:
    """The reference's `blip_caption`: lower case, some punctuation off, single spaces, the first 50 words."""
    text = re.sub(r"\s{2,}", " ", _PUNCTUATION.sub(" ", text.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:_MOST_WORDS])


def _spelled(sample: Sample, inputs: Inputs) -> Sample:
    """The sample with its boxes as the model's family writes them, and its text as the oddities want it."""
    texts = [text for turn in sample.turns for text in (turn.instruction, turn.answer)]
    spelled = respell(texts, sample.boxes, inputs.boxes)
    if "plain_without_image" in inputs.oddities and not sample.images:
        spelled = [plain(text) for text in spelled]
    if spelled == texts:
        return sample
    return replace(sample, turns=tuple(map(Turn, spelled[::2], spelled[1::2])))


def _wordings(task: Task, inputs: Inputs) -> Sequence[str]:
    return inputs.wordings.get(task) or WORDINGS[task]


def _bare_images(sample: Sample, inputs: Inputs) -> str:
    return inputs.bare_image.replace(INSTRUCTION, IMAGE_PLACE) * len(sample.images)


def _prompt(
    sample: Sample, number: int, task: Task, inputs: Inputs, template: str, wording: str, after: str = ""
) -> str:
    """One turn's prompt: its instruction in the wording and the template, its images where they belong."""
    text, shown = sample.turns[number].instruction, _images(sample, inputs)
    in_front = ""
    if sum(turn.instruction.count(IMAGE_PLACE) for turn in sample.turns) != len(shown) or not shown:
        text = text.replace(IMAGE_PLACE, "")
        in_front = "".join(image + inputs.after_image for image in shown) if number == 0 else ""
    earlier = sum(turn.instruction.count(IMAGE_PLACE) for turn in sample.turns[:number])
    pieces = text.split(IMAGE_PLACE)
    if inputs.plain and task in _PLAIN_INSTRUCTIONS:
        pieces = [plain(piece) for piece in pieces]
    places = [*shown[earlier : earlier + len(pieces) - 1], ""]
    instruction = wording.replace(
        INSTRUCTION, "".join(piece + image for piece, image in zip(pieces, places, strict=True))
    )
    if IMAGES not in template:
        in_front, instruction = "", in_front + instruction
    before, behind = template.replace(IMAGES, in_front).split(INSTRUCTION)
    return ("" if number else inputs.system) + before + instruction + after + behind


def _images(sample: Sample, inputs: Inputs) -> list[str]:
    """The place of each image, with what its family writes around it."""
    around = inputs.image.replace(INSTRUCTION, IMAGE_PLACE)
    return [around.replace(NUMBER, str(number)) for number in range(1, len(sample.images) + 1)]


def _answer(sample: Sample, task: Task, inputs: Inputs, rng: random.Random | None) -> str:
    # Accepted answers repeat as often as annotators gave them, so a plain choice is weighted as the reference's.
    answer = rng.choice(sample.answers) if rng and sample.answers else sample.turns[0].answer
    return plain(answer) if inputs.plain and task in _PLAIN_ANSWERS else answer
