"""A template: how a family of models words what it reads. `templates/*.yaml` holds one per family; recipes name one."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition
from tinygptv.definitions.mixture import Task

BoxForm = Literal["percent", "cogvlm", "qwen_vl", "fractions"]
"""How boxes are written: `{<10><20><30><80>}` of 0..100, `[[100,200,305,800]]` of 000..999,
`<box>(100,200),(305,799)</box>` of [0, 1000), or `[0.1, 0.2, 0.3, 0.8]`."""

INSTRUCTION, IMAGES, NUMBER = "{}", "{images}", "{number}"


class Prompting(Definition):
    """From a sample's turns to text. Where nothing is said, it is what MiniGPT-4, MiniGPT-v2 and TinyGPT-V do.

    A conversation is `system`, then turn by turn: BOS where `begin` has it, `template` with the instruction at its
    `{}`, the answer, `end_symbol`, and, with `ends_with_eos`, the tokenizer's EOS. What follows `template` is learned.
    """

    template: str | None
    """Null: no prompt at all, the image alone. Else with `{}`, and with `{images}` unless images come first inside the
    instruction. A recipe may name a file of `templates/` here, and say only in what it departs from it."""
    end_symbol: str
    ends_with_eos: bool = False
    later_template: str | None = None
    """Stands in for `template` from the second turn on."""
    asking_template: str | None = None
    """Stands in for `template` when the model is asked, if training and evaluation differ."""
    system: str = ""
    begin: Literal["every_turn", "first_turn", "never"] = "every_turn"
    """Where BOS stands."""
    image: str = "<Img>{}</Img>"
    """What surrounds the tokens of an image; `{number}` counts a sample's images from 1."""
    after_image: str = " "
    """Between an image that comes first and what follows it."""
    bare_image: str = "{}"
    """What surrounds the tokens of an image without any instruction."""
    boxes: BoxForm = "percent"
    plain: bool = True
    """Short answers and what asks for them go through the captions' processor: lower case, without punctuation."""
    wordings: dict[Task, list[str]] = Field(default_factory=dict)
    """How tasks are asked, task tags included, where it is not as in MiniGPT-v2. The first is the evaluation's."""

    @model_validator(mode="after")
    def _every_slot_is_there_once(self) -> Self:
        for template in (self.template, self.later_template, self.asking_template, self.image, self.bare_image):
            if template is not None and template.count(INSTRUCTION) != 1:
                raise ValueError(f"{template!r} needs exactly one {{}} where the instruction, or the image, goes")
        for task, wordings in self.wordings.items():
            if not wordings or any(wording.count(INSTRUCTION) > 1 for wording in wordings):
                raise ValueError(f"wordings.{task}: give one or more texts with at most one {{}} each")
        return self


class Template(Prompting):
    """A file of `templates/`."""

    about: str
