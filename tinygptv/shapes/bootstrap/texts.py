"""What the language model and the Q-Former read: exchanges about a described scene, and phrases with hard negatives."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tinygptv.data.prompting.boxes import box_text
from tinygptv.shapes import language
from tinygptv.shapes.scenes import GRID, Scene, SceneObject
from tinygptv.shapes.wordings import TAG, TRIED, reworded

_DESCRIBE = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
_CAPTION = (
    "Briefly describe this image.",
    "Provide a concise depiction of this image.",
    "Present a short description of this image.",
    "Summarize this image in a few words.",
    "A short image caption:",
)
_SHORT_ANSWER = "Based on the image, respond to this question with a short answer: {}"
_TRUE_OR_FALSE = "Based on the image, is this statement true or false? {}"
_REFER = (
    "{}",
    "give me the location of {}",
    "where is {} ?",
    "from this image, tell me the location of {}",
    "the location of {} is",
    "could you tell me the location for {} ?",
    "where can I locate the {} ?",
)
_IDENTIFY = (
    "{}",
    "what object is in this location {}",
    "identify the object present at this location {}",
    "what is it in {}",
    "describe this object in {}",
    "this {} is",
    "the object in {} is",
)
_GROUND = (
    "please describe this image in details",
    "describe this image as detailed as possible",
    "summarize this image in details",
    "give a thorough description of what you see in this image",
)
_VALUES = language.CHOICES | {"place": language.ANSWERS["position"]}
_BARE = ("", " ", "\n")
TEMPLATE = ("###Human: ", " ###Assistant: ", "###")
"""How the stages of the tiny recipe word a turn: before the instruction, before the answer, after it."""
_TEMPLATES = (TEMPLATE, ("[INST] ", " [/INST]", "###"))


@dataclass(frozen=True)
class Turn:
    """An instruction and the answer to learn."""

    instruction: str
    answer: str


@dataclass(frozen=True)
class Exchange:
    """A described scene and what is said about it. Without a template it is a bare caption, as in stages 1 and 2."""

    description: str
    turns: tuple[Turn, ...]
    template: tuple[str, str, str] | None

    def segments(self) -> Iterator[tuple[str, bool]]:
        """The text after the description, in pieces to be tokenised apart; True marks what is to be learned."""
        if self.template is None:
            yield self.turns[0].answer + "\n", True
            return
        opening, closing, end = self.template
        for number, turn in enumerate(self.turns):
            yield ("</Img> " if number == 0 else opening) + turn.instruction + closing, False
            yield turn.answer + end, True

    def opening(self) -> str:
        """The text before the description."""
        return f"{self.template[0]}<Img>" if self.template else ""

    def words(self) -> Iterator[str]:
        """Everything in order."""
        yield self.opening()
        yield self.description
        for text, _ in self.segments():
            yield text


def lesson(scene: Scene, rng: random.Random) -> Exchange:
    """One sequence for the language model: mostly drills, else an exchange as the stages will hold it."""
    return drills(scene, rng) if rng.random() < 0.75 else exchange(scene, rng)


def exchange(scene: Scene, rng: random.Random) -> Exchange:
    """A description in one of many wordings, then a bare caption or two to four tasks in their full wording."""
    description = describe(scene, rng)
    if rng.random() < 0.15:
        return Exchange(description, (Turn("", language.caption(scene, rng)),), None)
    turns = tuple(_turn(scene, rng) for _ in range(rng.randint(2, 4)))
    return Exchange(description, turns, rng.choices(_TEMPLATES, (0.85, 0.15))[0])


def drills(scene: Scene, rng: random.Random) -> Exchange:
    """Many questions and statements in their shortest form, often with hardly a template.

    Almost all there is to learn about reading a scene is in such one-word answers, and the long wordings of the real
    tasks would crowd them out. Questions come in many wordings, of which people will use any.
    """
    template, length = rng.choice(((TEMPLATE, 8), (_BARE, 12)))
    return Exchange(describe(scene, rng), tuple(_drill(scene, rng) for _ in range(length)), template)


def describe(scene: Scene, rng: random.Random) -> str:
    """The scene in words, as they stand in for the picture: objects in any order, at times with boxes."""
    forms = ("a {size} {colour} {kind} {at}", "{kind}, {colour}, {size}, {place}", "{place} {name}")
    form = rng.choice(forms) + rng.choice(("", " {box}"))
    return "; ".join(
        form.format(
            size=o.size,
            colour=o.colour,
            kind=o.kind,
            name=language.name(o),
            at=language.at_place(o),
            place=language.place(o),
            box=box_text(o.box),
        )
        for o in rng.sample(scene.objects, len(scene.objects))
    )


def _turn(scene: Scene, rng: random.Random) -> Turn:
    task = rng.choices(("question", "statement", "refer", "identify", "caption", "ground"), (40, 25, 15, 5, 10, 5))[0]
    turn = _TASKS[task](scene, rng)
    return turn or _question(scene, rng)


def _drill(scene: Scene, rng: random.Random) -> Turn:
    turn = None
    while turn is None:
        turn = _DRILLS[rng.choices(tuple(_DRILLS), _DRILL_WEIGHTS)[0]](scene, rng)
    return turn


def _presence(scene: Scene, rng: random.Random) -> Turn:
    """`any red? no`, `any small star? yes`: one attribute or two, the steps towards judging a whole statement."""
    parts = rng.choice((("kind",), ("colour",), ("place",), ("colour", "kind"), ("size", "kind"), ("kind", "place")))
    present = [tuple(_attribute(thing, part) for part in parts) for thing in scene.objects]
    wanted, said = rng.random() < 0.5, rng.choice(present)
    while not wanted and said in present:
        said = tuple(rng.choice(_VALUES[part]) for part in parts)
    return Turn(f"any {' '.join(said)}?", "yes" if wanted else "no")


def _judge(kind: str, scene: Scene, rng: random.Random, form: str = "true or false? {}") -> Turn | None:
    said = language.STATING[kind](scene, rng, rng.random() < 0.5)
    return Turn(form.format(said.text), "true" if said.truth else "false") if said else None


def _ask(kind: str, scene: Scene, rng: random.Random, form: str = "{}") -> Turn | None:
    asked = language.ASKING[kind](scene, rng)
    return Turn(form.format(asked.text), asked.answer) if asked else None


def _ask_in_other_words(kind: str, scene: Scene, rng: random.Random) -> Turn | None:
    asked = language.ASKING[kind](scene, rng)
    return Turn(rng.choice(("", "", TAG)) + reworded(asked, rng), asked.answer) if asked else None


def _ask_unseen(kind: str, scene: Scene, rng: random.Random) -> Turn | None:
    asked = language.ASKING[kind](scene, rng)
    return Turn(TRIED[kind][-1].format(asked.about), asked.answer) if asked else None


def _locate(scene: Scene, rng: random.Random) -> Turn | None:
    said = language.reference(scene, rng)
    return Turn(f"[refer] {said.phrase}", box_text(said.target.box)) if said else None


def _attribute(thing: SceneObject, part: str) -> str:
    return language.place(thing) if part == "place" else getattr(thing, part)


_DRILLS: dict[str, Callable[[Scene, random.Random], Turn | None]] = {
    "presence": _presence,
    "locate": _locate,
    **{f"judge {kind}": partial(_judge, kind) for kind in language.STATING},
    **{f"ask {kind}": partial(_ask_in_other_words, kind) for kind in language.ASKING},
}
_WEIGHT_OF = {"presence": 15, "locate": 8, "judge attribute": 8, "judge count": 10, "judge spatial": 24}
_DRILL_WEIGHTS = [_WEIGHT_OF.get(drill, 7) for drill in _DRILLS]


def _question(scene: Scene, rng: random.Random) -> Turn:
    turn = None
    while turn is None:
        turn = _ask(rng.choice(("colour", "kind", "count", "count", "position", "yes_no")), scene, rng)
    form = rng.choice(("[vqa] {}", f"[vqa] {_SHORT_ANSWER}", "{}"))
    return replace(turn, instruction=form.format(turn.instruction))


def _statement(scene: Scene, rng: random.Random) -> Turn | None:
    return _judge(rng.choice(("attribute", "count", "spatial")), scene, rng, f"[vqa] {_TRUE_OR_FALSE}")


def _refer(scene: Scene, rng: random.Random) -> Turn | None:
    reference = language.reference(scene, rng)
    if reference is None:
        return None
    instruction = "[refer] " + rng.choice(_REFER).format(reference.phrase)
    return Turn(instruction, box_text(reference.target.box))


def _identify(scene: Scene, rng: random.Random) -> Turn:
    thing = rng.choice(scene.objects)
    instruction = "[identify] " + rng.choice(_IDENTIFY).format(box_text(thing.box))
    return Turn(instruction, language.region_description(thing))


def _caption(scene: Scene, rng: random.Random) -> Turn:
    if rng.random() < 0.5:
        return Turn("[caption] " + rng.choice(_CAPTION), language.caption(scene, rng))
    return Turn(rng.choice(_DESCRIBE), language.detailed_description(scene, rng))


def _ground(scene: Scene, rng: random.Random) -> Turn:
    if rng.random() < 0.5:
        return Turn("[grounding] " + rng.choice(_GROUND), language.grounded_caption(scene, rng))
    thing = rng.choice(scene.objects)
    phrase = language.region_description(thing)
    return Turn(f"[detection] {phrase}", f"<p>{phrase}</p> {box_text(thing.box)}")


_TASKS = {
    "question": _question,
    "statement": _statement,
    "refer": _refer,
    "identify": _identify,
    "caption": _caption,
    "ground": _ground,
}


EXAMS: dict[str, Callable[[Scene, random.Random], Turn | None]] = {
    **{f"judge_{kind}": partial(_judge, kind, form=f"[vqa] {_TRUE_OR_FALSE}") for kind in language.STATING},
    **{f"ask_{kind}": partial(_ask, kind, form=f"[vqa] {_SHORT_ANSWER}") for kind in language.ASKING},
    **{f"ask_{kind}_in_new_words": partial(_ask_unseen, kind) for kind in TRIED},
    "refer": _refer,
}
"""What the language model is examined in, worded as in the last stage, or in words that no lesson uses."""


def matching_pair(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A text that fits the scene and one that nearly does: wrong in one attribute, one place, or one number."""
    if rng.random() < 0.25:
        true, false = (language.count_statement(scene, rng, truth).text for truth in (True, False))
        return true, false
    chosen = rng.sample(scene.objects, min(len(scene.objects), rng.randint(1, 2)))
    return _phrase(chosen), _phrase([_changed(scene, chosen[0], rng), *chosen[1:]])


def _phrase(things: list[SceneObject]) -> str:
    return ", ".join(f"a {language.name(thing)} {language.at_place(thing)}" for thing in things)


def _changed(scene: Scene, thing: SceneObject, rng: random.Random) -> SceneObject:
    taken = {_content(o) for o in scene.objects}
    while True:
        part = rng.choice(("kind", "colour", "size", "place", "place"))
        changes: dict[str, Any] = {part: rng.choice(language.CHOICES.get(part, ("",)))}
        if part == "place":
            changes = {"row": rng.randrange(GRID), "column": rng.randrange(GRID)}
        other = replace(thing, **changes)
        if _content(other) not in taken:
            return other


def _content(thing: SceneObject) -> tuple[str | int, ...]:
    return thing.kind, thing.colour, thing.size, thing.row, thing.column


def generation_text(scene: Scene, rng: random.Random) -> str:
    """What the Q-Former learns to write: places of all objects, their counts, or the boxes of one or two."""
    style = rng.random()
    if style < 0.45:
        return language.full_caption(scene, rng)
    if style < 0.65:
        return language.count_caption(scene, rng)
    things = rng.sample(scene.objects, min(len(scene.objects), 2))
    return ", ".join(f"{language.name(thing)} {box_text(thing.box)}" for thing in things)
