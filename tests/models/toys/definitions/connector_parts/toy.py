"""A connector part that no other file knows."""

from typing import Literal

from tinygptv.definitions.parts import ConnectorPart


class Toy(ConnectorPart):
    """An affine map and a GELU."""

    is_projection = True

    part: Literal["toy"]
    width: int

    def output_tokens(self, tokens: int) -> int:
        return tokens

    def output_width(self, width: int) -> int:
        return self.width
