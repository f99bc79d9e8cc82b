"""What can be said and asked about a scene: captions, statements, questions, references, conversations.

Every function is pure in (scene, rng). One that cannot say its kind of thing about a scene (there is nothing left of
a single shape) returns None. The balanced samplers pick scenes so that answers are equally frequent: chance level is
then one over the number of answers, and a model that ignores the picture gets no more.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tinygptv.data.prompting.boxes import box_text
from tinygptv.shapes.scenes import COLOURS, KINDS, SIZES, Scene, SceneObject, scene

PLACES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
"""The word for a grid cell, by row and column."""

NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")
Key = TypeVar("Key")
CHOICES = {"colour": COLOURS, "kind": KINDS, "size": SIZES}


@dataclass(frozen=True)
class Question:
    """A question with its short answer. `kind` is a key of ANSWERS, `about` the words for what is asked about, `aspect`
    what is counted, if anything is."""

    text: str
    answer: str
    kind: str
    about: str
    aspect: str = ""


@dataclass(frozen=True)
class Statement:
    """A sentence that is true or false of the scene; `claim` is the part of it that could give the truth away."""

    text: str
    truth: bool
    kind: str
    claim: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """A phrase that fits exactly one object of the scene, and that object."""

    phrase: str
    target: SceneObject


def place(thing: SceneObject) -> str:
    """The position word of an object: `top left`, `center`, ..."""
    return PLACES[thing.row][thing.column]


def at_place(thing: SceneObject) -> str:
    """The position as a phrase: `at the top left`, `on the right`, `in the center`."""
    preposition = {"left": "on the", "right": "on the", "center": "in the"}.get(place(thing), "at the")
    return f"{preposition} {place(thing)}"


def name(thing: SceneObject) -> str:
    """Size, colour and kind: `small red circle`."""
    return f"{thing.size} {thing.colour} {thing.kind}"


def plural(noun: str, count: int) -> str:
    """`cross` becomes `crosses`, everything else gains an s; one stays as it is."""
    if count == 1:
        return noun
    return noun + ("es" if noun.endswith("s") else "s")


def listing(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


# Captions


def short_caption(scene: Scene, rng: random.Random) -> str:
    """Colours and kinds only: `a red circle and a blue star`."""
    return listing([_a(f"{thing.colour} {thing.kind}") for thing in _shuffled(scene, rng)])


def full_caption(scene: Scene, rng: random.Random) -> str:
    """Every object with its size, colour, kind and place, in random order."""
    return ", ".join(f"a {name(thing)} {at_place(thing)}" for thing in _shuffled(scene, rng))


def count_caption(scene: Scene, rng: random.Random) -> str:
    """How many there are, then how many of each kind: `three shapes: two circles and one star`."""
    counts = Counter(thing.kind for thing in _shuffled(scene, rng))
    parts = [f"{NUMBERS[count]} {plural(kind, count)}" for kind, count in counts.items()]
    return f"{NUMBERS[len(scene.objects)]} {plural('shape', len(scene.objects))}: {listing(parts)}"


def caption(scene: Scene, rng: random.Random) -> str:
    """A caption in one of the three styles above, as alt text on the web varies in what it bothers to say."""
    return rng.choice((short_caption, full_caption, full_caption, count_caption))(scene, rng)


def grounded_caption(scene: Scene, rng: random.Random) -> str:
    """Every object as a phrase with its box: `<p>a small red circle</p> {<10><12><25><27>}`."""
    return ", ".join(f"<p>a {name(thing)}</p> {box_text(thing.box)}" for thing in _shuffled(scene, rng))


def detailed_description(scene: Scene, rng: random.Random) -> str:
    """Several sentences: the count, every object with its place, and one spatial relation where there is one."""
    count = len(scene.objects)
    sentences = [f"the picture shows {NUMBERS[count]} {plural('shape', count)}."]
    sentences += [f"there is a {name(thing)} {at_place(thing)}." for thing in _shuffled(scene, rng)]
    if relation := spatial_statement(scene, rng, truth=True):
        sentences.append(f"{relation.text}.")
    return " ".join(sentences)


def region_description(thing: SceneObject) -> str:
    """What stands at a box, for `[identify]`."""
    return f"a {name(thing)}"


# References


def identifying_phrases(scene: Scene, thing: SceneObject) -> list[str]:
    """All phrases that fit this object and no other of the scene, without its place; possibly none."""
    wordings = {
        thing.kind: ("kind",),
        f"{thing.colour} {thing.kind}": ("colour", "kind"),
        f"{thing.size} {thing.kind}": ("size", "kind"),
        name(thing): ("size", "colour", "kind"),
    }
    return [words for words, parts in wordings.items() if sum(_agree(thing, o, parts) for o in scene.objects) == 1]


def reference(scene: Scene, rng: random.Random) -> Reference | None:
    """A referring expression: one that attributes alone make unique, or one that needs the place."""
    target = rng.choice(scene.objects)
    phrases = identifying_phrases(scene, target)
    phrases.append(f"{target.colour} {target.kind} {at_place(target)}")
    return Reference(rng.choice(phrases), target)


# Statements


def attribute_statement(scene: Scene, rng: random.Random, truth: bool) -> Statement:
    """`there is a small red circle`; a false one is a true one with a single attribute swapped, true of no object."""
    parts = rng.choice((("colour", "kind"), ("size", "colour", "kind"), ("size", "kind")))
    for thing in _shuffled(scene, rng):
        said = {part: getattr(thing, part) for part in parts}
        if truth:
            return Statement(_there_is(said), True, "attribute")
        swaps = [(part, word) for part in parts for word in CHOICES[part] if word != said[part]]
        # By attribute first: otherwise colour, having most values, would nearly always be the one swapped.
        rng.shuffle(swaps)
        order = rng.sample(parts, len(parts))
        for part, word in sorted(swaps, key=lambda swap: order.index(swap[0])):
            if not any(all(getattr(o, p) == w for p, w in (said | {part: word}).items()) for o in scene.objects):
                return Statement(_there_is(said | {part: word}), False, "attribute")
    raise AssertionError("a scene of at most four shapes leaves some attribute to swap")


def count_statement(scene: Scene, rng: random.Random, truth: bool) -> Statement:
    """`there are two red shapes`; a false one is off by one or two."""
    aspect, noun, count = _countable(scene, rng)
    if not truth:
        least = 1 if aspect == "all" else 0
        count = rng.choice([n for n in range(least, len(NUMBERS)) if n != count and abs(n - count) <= 2])
    verb = "is" if count == 1 else "are"
    number = NUMBERS[count] if count else "no"
    return Statement(f"there {verb} {number} {plural(noun, count)}", truth, "count", (aspect, NUMBERS[count]))


def spatial_statement(scene: Scene, rng: random.Random, truth: bool) -> Statement | None:
    """`the red circle is left of the blue star`, between two objects that attributes identify; false: the opposite."""
    pairs = []
    for a in scene.objects:
        for b in scene.objects:
            if a.column != b.column:
                pairs.append((a, "left of" if a.column < b.column else "right of", b))
            if a.row != b.row:
                pairs.append((a, "above" if a.row < b.row else "below", b))
    rng.shuffle(pairs)
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for a, relation, b in pairs:
        first, second = identifying_phrases(scene, a), identifying_phrases(scene, b)
        if first and second:
            said = relation if truth else opposite[relation]
            return Statement(f"the {rng.choice(first)} is {said} the {rng.choice(second)}", truth, "spatial", (said,))
    return None


# Questions


def colour_question(scene: Scene, rng: random.Random) -> Question | None:
    """The colour of an object that something else than its colour identifies."""
    for thing in _shuffled(scene, rng):
        wordings = _identified_without(scene, thing, "colour")
        if wordings:
            form, about = rng.choice(("what color is the {}?", "what is the color of the {}?")), rng.choice(wordings)
            return Question(form.format(about), thing.colour, "colour", about)
    return None


def kind_question(scene: Scene, rng: random.Random) -> Question | None:
    """The kind of an object that something else than its kind identifies."""
    for thing in _shuffled(scene, rng):
        wordings = _identified_without(scene, thing, "kind")
        if wordings:
            form, about = rng.choice(("what shape is the {}?", "what is the shape of the {}?")), rng.choice(wordings)
            return Question(form.format(about), thing.kind, "kind", about)
    return None


def count_question(scene: Scene, rng: random.Random) -> Question:
    """How many of a kind, of a colour, or of all; answered by a number word, `zero` included."""
    aspect, noun, count = _countable(scene, rng)
    about = plural(noun, 2)
    return Question(f"how many {about} are there?", NUMBERS[count], "count", about, aspect)


def position_question(scene: Scene, rng: random.Random) -> Question | None:
    """The position word of an object that its attributes identify."""
    for thing in _shuffled(scene, rng):
        if phrases := identifying_phrases(scene, thing):
            about = rng.choice(phrases)
            return Question(f"where is the {about}?", place(thing), "position", about)
    return None


def yes_no_question(scene: Scene, rng: random.Random) -> Question:
    """An attribute statement as a question."""
    said = attribute_statement(scene, rng, truth=rng.random() < 0.5)
    about = said.text.removeprefix("there is ")
    return Question(f"is there {about}?", "yes" if said.truth else "no", "yes_no", about)


ASKING: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "colour": colour_question,
    "kind": kind_question,
    "count": count_question,
    "position": position_question,
    "yes_no": yes_no_question,
}
STATING: dict[str, Callable[[Scene, random.Random, bool], Statement | None]] = {
    "attribute": attribute_statement,
    "count": count_statement,
    "spatial": spatial_statement,
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "kind": KINDS,
    "count": NUMBERS,
    "position": tuple(word for row in PLACES for word in row),
    "yes_no": ("yes", "no"),
}
"""Every possible answer of a question kind; chance level is one over their number."""


def conversation(scene: Scene, rng: random.Random) -> list[Question]:
    """Two or three different questions about the scene, to be asked in turn."""
    asked: dict[str, Question] = {}
    for kind in rng.sample(sorted(ASKING), len(ASKING)):
        if question := ASKING[kind](scene, rng):
            asked[question.text] = question
    return list(asked.values())[: rng.randint(2, 3)]


# Exact balance

# What is counted decides which numbers are possible, so numbers are balanced within each aspect. "All" never counts
# zero; it comes half as often as the others, so that always answering `zero` is no worse than always `one`.
_COUNTS = [(aspect, number) for aspect in ("kind", "colour") for number in NUMBERS] * 2
_COUNTS += [("all", number) for number in NUMBERS[1:]]


def balanced_questions(kind: str, split: str, count: int, seed: int = 0) -> Iterator[tuple[Scene, Question]]:
    """`count` questions of a kind about as many scenes; every answer comes equally often (to within one)."""
    quota = _quotas(_COUNTS if kind == "count" else [("", answer) for answer in ANSWERS[kind]], count)
    for index in _indices(seed):
        picture = scene(split, index)
        question = ASKING[kind](picture, random.Random(f"{kind} {split} {seed} {index}"))
        if question and quota[question.aspect, question.answer]:
            quota[question.aspect, question.answer] -= 1
            yield picture, question
        if not quota.total():
            return


def balanced_statements(kind: str, split: str, count: int, seed: int = 0) -> Iterator[tuple[Scene, Statement]]:
    """`count` statements of a kind, half of them true; what is claimed is as often true as false.

    So the words alone (that `one` is the commonest number, say) tell nothing about the truth.
    """
    by_kind: dict[str, list[tuple[str, ...]]] = {
        "attribute": [()],
        "count": list(_COUNTS),
        "spatial": [(relation,) for relation in RELATIONS],
    }
    claims = by_kind[kind]
    quota = _quotas([(claim, truth) for claim in claims for truth in (True, False)], count)
    for index in _indices(seed):
        picture = scene(split, index)
        statement = STATING[kind](picture, random.Random(f"{kind} {split} {seed} {index}"), index % 2 == 0)
        if statement and quota[statement.claim, statement.truth]:
            quota[statement.claim, statement.truth] -= 1
            yield picture, statement
        if not quota.total():
            return


def _indices(seed: int) -> Iterator[int]:
    # Seeds far apart, so that two of them never ask about the same scenes.
    index = seed * 1_000_000
    while True:
        yield index
        index += 1


def _quotas(keys: Sequence[Key], count: int) -> Counter[Key]:
    """Deal `count` out over the keys in turn; a key that is listed twice gets twice as many."""
    quota: Counter[Key] = Counter()
    for place, key in enumerate(keys):
        quota[key] += (count + len(keys) - 1 - place) // len(keys)
    return quota


def _shuffled(scene: Scene, rng: random.Random) -> list[SceneObject]:
    return rng.sample(scene.objects, len(scene.objects))


def _agree(a: SceneObject, b: SceneObject, parts: tuple[str, ...]) -> bool:
    return all(getattr(a, part) == getattr(b, part) for part in parts)


def _a(noun: str) -> str:
    return f"{'an' if noun.startswith('orange') else 'a'} {noun}"


def _there_is(said: dict[str, str]) -> str:
    return f"there is {_a(' '.join(said.values()))}"


def _identified_without(scene: Scene, thing: SceneObject, hidden: str) -> list[str]:
    """Ways to point at an object that do not give away the attribute asked about."""
    parts = [part for part in ("size", "colour", "kind") if part != hidden]
    wordings = []
    for chosen in (parts, parts[-1:], parts[:1]):
        if sum(_agree(thing, o, tuple(chosen)) for o in scene.objects) == 1:
            words = " ".join(getattr(thing, part) for part in chosen)
            wordings.append(words if chosen[-1] == "kind" else f"{words} shape")
    return wordings or [f"shape {at_place(thing)}"]


def _countable(scene: Scene, rng: random.Random) -> tuple[str, str, int]:
    """An aspect (kind, colour or all), a noun of it, and how many of that there are; at times none."""
    aspect = rng.choice(("kind", "colour", "all"))
    if aspect == "all":
        return aspect, "shape", len(scene.objects)
    present = [getattr(thing, aspect) for thing in scene.objects]
    word = rng.choice(present) if rng.random() < 0.7 else rng.choice(CHOICES[aspect])
    return aspect, (word if aspect == "kind" else f"{word} shape"), present.count(word)
