"""Turns → the exact text a model reads: task tags, instruction wordings, the chat template, and boxes as text.

A rendered prompt is one string with `<ImageHere>` where the image's tokens go; the pieces around it are tokenised
apart, as the published models were trained. Sources: MiniGPT-4 `prompts/alignment.txt`, MiniGPT-v2
`datasets/datasets/*.py` and `blip_processors.py`, which TinyGPT-V (arXiv 2312.16862) uses unchanged.
"""

import random
import re

from tinygptv.definitions.mixture import Task
from tinygptv.definitions.recipe import Inputs
from tinygptv.sample import Sample, Turn

IMAGE_PLACE = "<ImageHere>"
"""Where the image's tokens are put; never tokenised itself."""

_IMAGE = f"<Img>{IMAGE_PLACE}</Img>"

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
    "conversation": ("{}",),
}
"""How each task is asked, `{}` standing for the sample's own instruction. The first wording is the evaluation's."""

# Which sides of a turn the published readers send through their caption processor.
_PLAIN_INSTRUCTIONS = frozenset({"vqa", "refer"})
_PLAIN_ANSWERS = frozenset({"caption_only", "caption", "vqa", "identify"})

_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_MOST_WORDS = 50

Box = tuple[float, float, float, float]
_BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")


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
    alone and only the first turn remains.
    """
    drawer = wording_rng or rng
    wording = drawer.choice(WORDINGS[task]) if drawer else WORDINGS[task][0]
    if inputs.template is None or task == "caption_only":
        return (Turn(IMAGE_PLACE if sample.image else "", _answer(sample, task, rng)),)
    # The readers of single descriptions and of text without an image do not add this space, all others do.
    spaced = "space_after_instruction" in inputs.oddities and sample.image is not None and task != "describe"
    rendered = []
    for number, turn in enumerate(sample.turns):
        instruction = _instruction(sample, number, task, wording) + (" " if spaced else "")
        answer = turn.answer if number else _answer(sample, task, rng)
        rendered.append(Turn(inputs.template.replace("{}", instruction), answer))
    return tuple(rendered)


def ask(sample: Sample, task: Task, inputs: Inputs) -> str:
    """The prompt to be answered: the sample's first turn in the evaluation wording and the template for asking."""
    template = inputs.asking_template or inputs.template
    if template is None or task == "caption_only":
        return IMAGE_PLACE if sample.image else ""
    return template.replace("{}", _instruction(sample, 0, task, WORDINGS[task][0]))


def plain(text: str) -> str:
    """The reference's `blip_caption`: lower case, some punctuation off, single spaces, the first 50 words."""
    text = re.sub(r"\s{2,}", " ", _PUNCTUATION.sub(" ", text.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:_MOST_WORDS])


def box_text(box: Box) -> str:
    """Fractions of width and height as `{<x0><y0><x1><y1>}`: integers 0..100, truncated."""
    return "{" + "".join(f"<{int(edge * 100)}>" for edge in box) + "}"


def read_box(text: str) -> Box | None:
    """The first box in a model's answer, as fractions; None if there is none. Spaces are overlooked."""
    found = _BOX.search(text.replace(" ", ""))
    if not found:
        return None
    x0, y0, x1, y1 = (int(edge) / 100 for edge in found.groups())
    return x0, y0, x1, y1


def _instruction(sample: Sample, number: int, task: Task, wording: str) -> str:
    text = sample.turns[number].instruction.replace(IMAGE_PLACE, "")
    instruction = wording.replace("{}", plain(text) if task in _PLAIN_INSTRUCTIONS else text)
    return f"{_IMAGE} {instruction}" if number == 0 and sample.image else instruction


def _answer(sample: Sample, task: Task, rng: random.Random | None) -> str:
    # Accepted answers repeat as often as annotators gave them, so a plain choice is weighted as the reference's.
    answer = rng.choice(sample.answers) if rng and sample.answers else sample.turns[0].answer
    return plain(answer) if task in _PLAIN_ANSWERS else answer
