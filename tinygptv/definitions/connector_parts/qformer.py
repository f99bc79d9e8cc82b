"""BLIP-2's querying transformer."""

from typing import Literal

from pydantic import Field

from tinygptv.definitions.base import Location
from tinygptv.definitions.parts import ConnectorPart


class QFormer(ConnectorPart):
    """BLIP-2's querying transformer: `queries` learned vectors read the image through cross-attention.

    `pretrained_with` is the language model that the BLIP-2 in `weights` was trained with. Q-Formers of different
    families have the same tensors and give different answers, so a file of another family is refused.
    """

    holds_output_norm = True
    published_prefixes = ("Qformer.", "qformer.")

    part: Literal["qformer"]
    queries: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    cross_attention_every: int = Field(gt=0)
    pretrained_with: Literal["t5", "opt"] | None = None
    weights: Location

    @property
    def file(self) -> Location:
        """The BLIP-2 it is read from."""
        return self.weights

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: one per query."""
        return self.queries

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width
