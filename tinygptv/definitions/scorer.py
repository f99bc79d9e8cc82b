"""How pairs of picture and caption are scored: which frozen model, on which pictures and texts, from which files."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition, Location
from tinygptv.definitions.connector_parts.qformer import QFormer
from tinygptv.definitions.model import AnyVisionEncoder


class Recaption(Definition):
    """Every picture gets a caption of the model's own, the likeliest word after word, of at most `max_tokens`."""

    max_tokens: int = Field(gt=0)


class Blip2Scorer(Definition):
    """BLIP-2's first stage: `itc`, the cosine of a caption with the query that fits it best, and `itm`, the probability
    that the two belong together; an embedding of the picture; and, with `recaption`, a second caption, scored too.

    `text_side` is for weights whose text side and heads lie in a file of their own. With `plain_text` captions are read
    in lower case and without punctuation, as BLIP-2 was trained. `batch` pairs are scored at a time.
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
    def _pictures_are_cut_evenly(self) -> Self:
        if self.image_size % self.vision_encoder.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.vision_encoder.patch_size}")
        return self

    @property
    def files(self) -> list[Location]:
        """All that the scores depend on beside this definition."""
        text_side = [] if self.text_side is None else [self.text_side]
        return [*self.vision_encoder.files.values(), self.qformer.weights, *text_side, self.tokenizer]


class OpenClipScorer(Definition):
    """`clip`, the cosine of picture and caption as a CLIP of the library open_clip sees them (`tinygptv[open_clip]`),
    and an embedding of the picture. `model` is the library's name for it; the weights are a file on disk."""

    kind: Literal["open_clip"]
    about: str
    model: str
    weights: Location
    batch: int = Field(gt=0)

    @property
    def recaption(self) -> None:
        """It writes none."""
        return None

    @property
    def files(self) -> list[Location]:
        """All that the scores depend on beside this definition."""
        return [self.weights]


Scorer = Annotated[Blip2Scorer | OpenClipScorer, Field(discriminator="kind")]
