"""Patches that follow each other, as one wide token."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tinygptv.definitions.parts import ConnectorPart, VisionEncoder


class MergePatches(ConnectorPart):
    """Drops the class token and joins every `count` patches that follow each other in reading order into one feature,
    `count` times as wide. So MiniGPT-v2 affords 448 px: 1024 patches become 256 tokens, and nothing is discarded.

    The older spelling `part: neighbours` means the same, and is the one that is dumped and hashed.
    """

    part: Annotated[Literal["merge_patches", "neighbours"], AfterValidator(lambda _: "neighbours")]
    count: int = Field(ge=2)

    @property
    def initialization(self) -> None:
        """It has no parameters."""
        return None

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`, of which the first is the class token."""
        return (tokens - 1) // self.count

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`."""
        return width * self.count

    def check_position(self, position: int, encoder: VisionEncoder) -> None:
        """Raises ValueError unless it comes first, behind an encoder with a class token."""
        if position:
            raise ValueError("merge_patches drops the vision encoder's class token, so it must come first")
        if not encoder.class_token:
            raise ValueError(
                f"merge_patches drops a class token, and {encoder.architecture} has none; choose another part"
            )

    def check_tokens(self, tokens: int) -> None:
        """Raises ValueError if patches would be left over."""
        if (tokens - 1) % self.count:
            raise ValueError(f"cannot join {tokens - 1} patches by {self.count}")
