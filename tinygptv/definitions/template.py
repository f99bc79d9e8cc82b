"""Prompt templates of model families. `templates/*.yaml` holds one per family; recipes refer to one by name."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition
from tinygptv.definitions.mixture import Task

BoxForm = Literal["percent", "cogvlm", "qwen_vl", "fractions"]
"""How boxes are written: `{<10><20><30><80>}` of 0..100, `[[100,200,305,800]]` of 000..999,
`<box>(100,200),(305,799)</box>` of [0, 1000), or `[0.1, 0.2, 0.3, 0.8]`."""

INSTRUCTION, IMAGES, NUMBER = "{}", "{images}", "{number}"


class Prompting(Definition):
    """How a sample's turns become text. The defaults are those of MiniGPT-4, MiniGPT-v2 and TinyGPT-V.

    A conversation is `system`, then for every turn: BOS where `begin` says so, `template` with the instruction in place
    of `{}`, the answer, `end_symbol` and, with `ends_with_eos`, the tokenizer's EOS. Loss is taken on what follows
    `template`.
    """

    template: str | None
    """Null: no prompt, only the image. Otherwise contains `{}`, and `{images}` unless images come first in the
    instruction. A recipe may name a file of `templates/` here and override single fields."""
    end_symbol: str
    ends_with_eos: bool = False
    later_template: str | None = None
    """Replaces `template` from the second turn on."""
    asking_template: str | None = None
    """Replaces `template` at inference, if training and evaluation differ."""
    system: str = ""
    begin: Literal["every_turn", "first_turn", "never"] = "every_turn"
    """Where BOS is inserted."""
    image: str = "<Img>{}</Img>"
    """Text around the tokens of an image; `{number}` counts a sample's images from 1."""
    after_image: str = " "
    """Text after an image that comes first."""
    bare_image: str = "{}"
    """Text around the tokens of an image without an instruction."""
    boxes: BoxForm = "percent"
    plain: bool = True
    """Whether short answers and their questions are lower-cased and stripped of punctuation, as captions are."""
    wordings: dict[Task, list[str]] = Field(default_factory=dict)
    """Instructions per task, with task tags, where they differ from MiniGPT-v2. Evaluation uses the first."""

    @model_validator(mode="after")
    def _every_slot_is_there_once(self) -> Self:
        for template in (self.template, self.later_template, self.asking_template, self.image, self.bare_image):
            if template is not None and template.count(INSTRUCTION) != 1:
                raise ValueError(f"{template!r} needs exactly one {{}} for the instruction or the image")
        for task, wordings in self.wordings.items():
            if not wordings or any(wording.count(INSTRUCTION) > 1 for wording in wordings):
                raise ValueError(f"wordings.{task}: expected one or more texts with at most one {{}} each")
        return self


class Template(Prompting):
    """A file of `templates/`."""

    about: str
