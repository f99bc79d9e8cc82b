"""A model as named parts: a vision encoder, the parts of a connector, a language model.

Which kinds of each there are, the files of `vision_encoders/`, `connector_parts/` and `decoders/` say. Sources of the
values: each recipe file says.
"""

from typing import TYPE_CHECKING, Self, TypeAlias

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition
from tinygptv.definitions.kinds import one_of
from tinygptv.definitions.parts import ConnectorPart, Decoder, VisionEncoder

if TYPE_CHECKING:  # a type checker knows what all of a kind have in common
    AnyVisionEncoder: TypeAlias = VisionEncoder
    AnyConnectorPart: TypeAlias = ConnectorPart
    AnyDecoder: TypeAlias = Decoder
else:
    AnyVisionEncoder = one_of("tinygptv.definitions.vision_encoders", VisionEncoder, "architecture")
    AnyConnectorPart = one_of("tinygptv.definitions.connector_parts", ConnectorPart, "part")
    AnyDecoder = one_of("tinygptv.definitions.decoders", Decoder, "architecture")


class Model(Definition):
    """image → vision_encoder → connector parts in order → language_model."""

    vision_encoder: AnyVisionEncoder
    connector: list[AnyConnectorPart] = Field(min_length=1)
    language_model: AnyDecoder

    def num_image_tokens(self, image_size: int) -> int:
        """Tokens that the language model gets for one image of `image_size` px."""
        tokens = self.vision_encoder.num_tokens(image_size)
        for part in self.connector:
            tokens = part.output_tokens(tokens)
        return tokens

    def features_shape(self, image_size: int, parts: int) -> tuple[int, int]:
        """Tokens and their width that the first `parts` parts make of one image of `image_size` px: the vision encoder
        and, after it, the parts of the connector."""
        tokens, width = self.vision_encoder.num_tokens(image_size), self.vision_encoder.width
        for part in self.connector[: parts - 1]:
            tokens, width = part.output_tokens(tokens), part.output_width(width)
        return tokens, width

    def weight_files(self) -> list[str]:
        """Locations of all pretrained weights."""
        parts = [part.file for part in self.connector if part.file is not None]
        return [*self.vision_encoder.files.values(), *parts, self.language_model.weights]

    @model_validator(mode="after")
    def _connector_ends_at_the_decoder(self) -> Self:
        width = self.vision_encoder.width
        for part in self.connector:
            width = part.output_width(width)
        if width != self.language_model.width:
            raise ValueError(
                f"connector[-1] gives features of width {width} but language_model.width is "
                f"{self.language_model.width}; the last connector part must have the decoder's width"
            )
        return self

    @model_validator(mode="after")
    def _parts_stand_where_they_can(self) -> Self:
        for position, part in enumerate(self.connector):
            try:
                part.check_position(position, self.vision_encoder)
            except ValueError as error:
                raise ValueError(f"connector[{position}]: {error}") from error
        return self

    def check_image_size(self, image_size: int) -> None:
        """Raises ValueError unless encoder and connector can take pictures of `image_size` px."""
        self.vision_encoder.check_image_size(image_size)
        tokens = self.vision_encoder.num_tokens(image_size)
        for position, part in enumerate(self.connector):
            try:
                part.check_tokens(tokens)
            except ValueError as error:
                raise ValueError(f"at {image_size} px connector[{position}] {error}") from error
            tokens = part.output_tokens(tokens)
