"""Conversations: LLaVA's layout, in which users write their own, MiniGPT-v2's multitask ones, and plain instructions.

In LLaVA's layout a record is `{"id", "conversations": [{"from": "human", "value"}, {"from": "gpt", "value"}, …]}` with
`image`, one name or a list of them, unless it is text only. `<image>` in what a human says is where an image is shown;
images without one come first. `<box>` anywhere is one of the record's `boxes`, [x0, y0, x1, y1] in fractions of width
and height, in reading order.

The same things under the names that LLaMA-Factory, ms-swift and chat APIs give them are read, too: `images`,
`messages`, `role` and `content`, `user` and `assistant`, `system`, `query`, `response` and `history`.
"""

import re
from typing import Annotated, Any

from pydantic import AliasChoices, BeforeValidator, Field

from tinygptv.data.annotations.fields import Id, Part, Record, RejectedError, Texts, missing
from tinygptv.data.annotations.images import with_folder
from tinygptv.data.annotations.marks import has_marks, with_boxes
from tinygptv.data.annotations.records import ONE_FILE, Layout, Reading, hash_of
from tinygptv.data.prompting.boxes import Box
from tinygptv.sample import ImageReference, Sample, Turn

_PICTURE = re.compile("image|img|picture|photo|video|audio", re.IGNORECASE)
_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}


def _one_text(content: Any) -> Any:
    """The pieces of a message as chat APIs list them, as one text."""
    texts = [_piece(piece) for piece in content] if isinstance(content, list) else [None]
    return content if None in texts else "".join(filter(None, texts))


def _piece(piece: Any) -> str | None:
    given = {key: value for key, value in piece.items() if value is not None} if isinstance(piece, dict) else {}
    if given == {"type": "image"}:
        return "<image>"
    return given["text"] if given.keys() == {"type", "text"} and isinstance(given["text"], str) else None


_Edges = Annotated[list[float], Field(min_length=4, max_length=4)]
_Exchange = Annotated[list[str], Field(min_length=2, max_length=2)]


class _Said(Part):
    switches = frozenset({"loss", "weight", "train"})

    value: Annotated[str, BeforeValidator(_one_text)] = Field(validation_alias=AliasChoices("value", "content"))
    speaker: str | None = Field(default=None, validation_alias=AliasChoices("from", "role"))


class _Talk(Record):
    ignored = frozenset({"model", "dataset", "data_source", "source", "question_id", "metadata"})
    switches = frozenset({"loss", "label"})
    needed = ("conversations",)

    id: Id = ""
    image: Texts = Field(default_factory=list, validation_alias=AliasChoices("image", "images"))
    conversations: list[_Said] = Field(default_factory=list, validation_alias=AliasChoices("conversations", "messages"))
    boxes: list[_Edges] = Field(default_factory=list)
    system: str = ""
    history: list[_Exchange] = Field(default_factory=list)
    query: str | None = None
    response: str | None = None


class _TaggedTalk(Record):
    """Who speaks follows from the order alone, unless it is said."""

    id: Id
    conversations: list[_Said]
    image: str | None = None


class _Instance(Part):
    ignored = frozenset({"input"})

    instruction_with_input: str
    output: str
    constraints: str | None = None


class _Instruction(Record):
    ignored = frozenset({"instruction", "reformulations"})

    instances: Annotated[list[_Instance], Field(min_length=1)]


def _llava(record: _Talk, reading: Reading) -> Sample:
    names = [name for name in record.image if name]
    others = {key for key, value in (record.model_extra or {}).items() if value and not isinstance(value, float | int)}
    if not names and (elsewhere := next(filter(_PICTURE.search, sorted(others)), None)):
        raise RejectedError("picture_under_another_key", f"it has no 'image', but '{elsewhere}'")
    found = tuple(reading.images.find(name, f"COCO_train2014_{name}", name.rpartition("/")[2]) for name in names)
    said = _said(record)
    key = record.id or hash_of(*names, *(text for speaker in said for text in speaker))
    return _sample(key, found, said, tuple(map(_box, record.boxes)), reading)


def _multitask(record: _TaggedTalk, reading: Reading) -> Sample:
    """About the COCO image of its id."""
    names = with_folder(record.image) if record.image else ()
    image = reading.images.find(*names, f"COCO_train2014_{record.id}.jpg", f"{record.id}.jpg")
    if any(said.speaker is None for said in record.conversations):
        who = (("human", "gpt")[place % 2] for place in range(len(record.conversations)))
        spoken = [(speaker, said.value) for speaker, said in zip(who, record.conversations, strict=True)]
    else:
        spoken = _speakers(record.conversations)
    return _sample(record.id, (image,), spoken, (), reading)


def _said(record: _Talk) -> list[tuple[str, str]]:
    """Who says what, whichever way it is listed."""
    system = [("system", record.system)] if record.system else []
    if not record.conversations and record.query is not None and record.response is not None:
        exchanges = [*record.history, [record.query, record.response]]
        return system + [said for asked, answer in exchanges for said in (("human", asked), ("gpt", answer))]
    if "conversations" not in record.model_fields_set:
        raise missing(record, "conversations")
    if record.query or record.response or record.history:
        raise RejectedError("unknown_key_query", "it has 'conversations', and 'query', 'response' or 'history'")
    return system + _speakers(record.conversations)


def _sample(
    key: str, images: tuple[ImageReference, ...], said: list[tuple[str, str]], boxes: tuple[Box, ...], reading: Reading
) -> Sample:
    texts = with_boxes(_alternating(said, reading), boxes)
    if not all(question.strip() for question in texts[2 if images else 0 :: 2]):  # the first may be the image alone
        raise RejectedError("no_question")
    turns = (Turn(question.strip(), answer.strip()) for question, answer in zip(texts[::2], texts[1::2], strict=True))
    return Sample(key, images, tuple(turns), boxes=boxes)


def _speakers(conversation: list[_Said]) -> list[tuple[str, str]]:
    spoken = []
    for said in conversation:
        if said.speaker is None:
            raise RejectedError("malformed_record: no conversations[].from", "a turn does not say who speaks")
        speaker = _SPEAKERS.get(said.speaker.lower())
        if speaker is None:
            raise RejectedError("unknown_speaker", f"'{said.speaker}' speaks; known are {', '.join(_SPEAKERS)}")
        spoken.append((speaker, said.value))
    return spoken


def _alternating(said: list[tuple[str, str]], reading: Reading) -> list[str]:
    """What is asked and answered in turn. What a system says comes before the first question.

    As in LLaVA's training, an answer before the first question is left out, and a question after the last answer
    teaches nothing, so it is left out, too; both are counted.
    """
    system = [text for who, text in said if who == "system"]
    talk = [(who, text) for who, text in said[len(system) :]]
    left_out = []
    if talk and talk[0][0] == "gpt":
        left_out.append(("turn of gpt before the first question", talk.pop(0)[1]))
    if talk and talk[-1][0] == "human":
        left_out.append(("question after the last answer", talk.pop()[1]))
    expected = ["human", "gpt"] * (len(talk) // 2)
    if not talk or [who for who, _ in talk] != expected or any(has_marks(text) for _, text in left_out):
        order = ", ".join(who for who, _ in said[:6]) or "nobody"
        raise RejectedError("turns_do_not_alternate", f"human and gpt do not speak in turn, but {order}")
    reading.not_read.update(what for what, _ in left_out)
    texts = [text for _, text in talk]
    texts[0] = "\n".join((*system, texts[0]))
    return texts


def _box(edges: list[float]) -> Box:
    x0, y0, x1, y1 = edges
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise RejectedError("box_outside_image", f"{edges} is not x0, y0, x1, y1 in fractions of width and height")
    return x0, y0, x1, y1


def _unnatural(record: _Instruction, reading: Reading) -> Sample:
    """Unnatural Instructions: the first instance, its constraints behind its instruction; text only."""
    instance = record.instances[0]
    asked = instance.instruction_with_input
    if instance.constraints is not None:
        asked = f"{asked} {instance.constraints}"
    return Sample(asked, (), (Turn(asked, instance.output.strip()),))


LLAVA = Layout(ONE_FILE, (_Talk, _Said), lambda reading: reading.records(_Talk), _llava, ids_repeat=True)
MULTITASK = Layout(
    ONE_FILE, (_TaggedTalk, _Said), lambda reading: reading.records(_TaggedTalk), _multitask, ids_repeat=True
)
UNNATURAL = Layout(ONE_FILE, (_Instruction, _Instance), lambda reading: reading.records(_Instruction), _unnatural)
