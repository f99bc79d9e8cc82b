"""One affine map."""

from typing import Literal

from pydantic import Field

from tinygptv.definitions.base import Location
from tinygptv.definitions.parts import ConnectorPart


class Linear(ConnectorPart):
    """One affine map from the incoming width to `width`; TinyGPT-V stacks two with nothing between them."""

    is_projection = True

    part: Literal["linear"]
    width: int = Field(gt=0)
    weights: Location | None = None

    @property
    def file(self) -> Location | None:
        """A projection of MiniGPT-4, if one is named."""
        return self.weights

    @property
    def initialization(self) -> str | None:
        """At random where no file is named."""
        return None if self.weights else "projections at random"

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: as many."""
        return tokens

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width
