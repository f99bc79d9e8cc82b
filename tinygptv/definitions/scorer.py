"""Scorers: frozen models that rate how well image and caption match, and their files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition, Location
from tinygptv.definitions.connector_parts.qformer import QFormer
from tinygptv.definitions.model import AnyVisionEncoder


class Recaption(Definition):
    """Generate a caption for every image: greedy decoding, at most `max_tokens` tokens."""

    max_tokens: int = Field(gt=0)


class Blip2Scorer(Definition):
    """BLIP-2's first stage. Computes `itc`, `itm`, an image embedding and, with `recaption`, a second scored caption.

    `itc` is the cosine similarity of a caption and its best query, `itm` the probability that they match.
    `text_side` is a separate file with the weights of the text side and the heads. With `plain_text`, captions are
    lower-cased and stripped of punctuation, as in BLIP-2's training. `batch` pairs are scored at a time.
    """

    kind: Literal["blip2"]
    about: str
    vision_encoder: AnyVisionEncoder
    qformer: QFormer
    text_side: Location | None = None
    tokenizer: Location
    image_size: int = Field(gt=0)
    max_text_tokens: int = Field(gt=2)
    plain_text: bool
    batch: int = Field(gt=0)
    recaption: Recaption | None = None

    @model_validator(mode="after")
    def _image_size_is_a_multiple_of_the_patch_size(self) -> Self:
        if self.image_size % self.vision_encoder.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.vision_encoder.patch_size}")
        return self

    @property
    def files(self) -> list[Location]:
        """All files that the scores depend on."""
        text_side = [] if self.text_side is None else [self.text_side]
        return [*self.vision_encoder.files.values(), self.qformer.weights, *text_side, self.tokenizer]


class OpenClipScorer(Definition):
    """A CLIP model of the open_clip library (`tinygptv[open_clip]`). Computes `clip` and an image embedding.

    `clip` is the cosine similarity of image and caption. `model` is the library's name; `weights` is a local file.
    """

    kind: Literal["open_clip"]
    about: str
    model: str
    weights: Location
    batch: int = Field(gt=0)

    @property
    def recaption(self) -> None:
        """It generates no captions."""
        return None

    @property
    def files(self) -> list[Location]:
        """All files that the scores depend on."""
        return [self.weights]


Scorer = Annotated[Blip2Scorer | OpenClipScorer, Field(discriminator="kind")]
