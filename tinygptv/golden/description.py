"""`case.json`: what was recorded, in the recorder's own words."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tinygptv.errors import DataError
from tinygptv.sample import Turn


class _Recorded(BaseModel):
    model_config = ConfigDict(frozen=True)


class Sizes(_Recorded):
    """The sizes that do not follow from the shapes of tensors."""

    vdepth: int = Field(gt=0)
    vheads: int = Field(gt=0)
    qheads: int = Field(gt=0)


class Adapters(_Recorded):
    """LoRA as the recorded model had it."""

    r: int
    alpha: float
    targets: list[str]


class Conversation(_Recorded):
    """Turns of each sample, joined by its `connect_sym`."""

    conv_q: list[str]
    conv_a: list[str]
    connect_sym: list[str]

    @model_validator(mode="after")
    def _every_question_has_its_answer(self) -> Self:
        columns = zip(self.conv_q, self.conv_a, self.connect_sym, strict=False)
        if len({len(self.conv_q), len(self.conv_a), len(self.connect_sym)}) > 1 or any(
            asked.count(by) != answered.count(by) for asked, answered, by in columns
        ):
            raise ValueError("conv_q, conv_a and connect_sym do not have as many samples and turns each")
        return self

    def turns(self, template: str) -> list[tuple[Turn, ...]]:
        """Every sample's turns as a model reads them."""
        return [
            tuple(Turn(template.replace("{}", q), a) for q, a in zip(qs.split(by), answers.split(by), strict=True))
            for qs, answers, by in zip(self.conv_q, self.conv_a, self.connect_sym, strict=True)
        ]


class Generation(_Recorded):
    """A greedy generation. The first of every row's `token_ids` comes from the generating code, not from the model."""

    prompts: list[str]
    max_new_tokens: int
    token_ids: list[list[int]]
    eos_token_id: int


class Description(_Recorded):
    """`case.json`. Without `instructions` a sample is its image and its answer."""

    config: Sizes
    image_size: int
    lora: Adapters | None
    trainable: list[str]
    trainable_without_grad: list[str] = []
    loss: float
    dtype: Literal["float32"]
    mode: Literal["eval"]
    answers: list[str]
    instructions: list[str] | None = None
    chat_template: bool = False
    conversation: Conversation | None = None
    generate: Generation | None = None

    @model_validator(mode="after")
    def _every_instruction_has_its_answer(self) -> Self:
        if self.instructions is not None and len(self.instructions) != len(self.answers):
            raise ValueError(f"{len(self.instructions)} instructions and {len(self.answers)} answers")
        return self


def read_description(path: Path) -> Description:
    """Raises DataError if the file is absent or says something else."""
    try:
        return Description.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: not there; a stage's folder holds one, copy the whole folder again") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not the description of a case: {first_problem(error)}") from error


def first_problem(error: ValidationError | UnicodeDecodeError) -> str:
    """Field and complaint of a validation's first error."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'top level'}: {problem['msg']}"
