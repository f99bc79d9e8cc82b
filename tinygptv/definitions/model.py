"""A model as named parts: a vision encoder, the parts of a connector, a language model. Sizes and where weights lie.

Sizes use the field's words: `width` is the hidden size, `depth` the number of layers, `mlp_width` the inner size of the
feed-forward, all in units of features. Sources of the values: each recipe file says.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition, Location


class VisionEncoder(Definition):
    """EVA-CLIP ViT as BLIP-2 uses it: class token kept, a LayerNorm (`ln_vision`) on the output.

    `image_size` (px) is the one it was pretrained at; a stage at another size interpolates the position table once.
    The output norm is BLIP-2's and lies in its file, which the Q-Former names; a model without one names it here, as
    `output_norm`, or begins with the identity.
    """

    architecture: Literal["eva_vit"]
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    image_size: int = Field(gt=0)
    weights: Location
    output_norm: Location | None = None

    def num_tokens(self, image_size: int) -> int:
        """Tokens per image at `image_size` px, class token included."""
        return (image_size // self.patch_size) ** 2 + 1


class QFormer(Definition):
    """BLIP-2's querying transformer: `queries` learned vectors read the image through cross-attention.

    `pretrained_with` is the language model that the BLIP-2 in `weights` was trained with: Q-Formers of the same size
    but of different families read alike and answer differently, so a file of another family is refused.
    """

    part: Literal["qformer"]
    queries: int = Field(gt=0)
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    cross_attention_every: int = Field(gt=0)
    pretrained_with: Literal["t5", "opt"] | None = None
    weights: Location

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: one per query."""
        return self.queries

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width


class Linear(Definition):
    """One affine map from the incoming width to `width`; TinyGPT-V stacks two with nothing between them."""

    part: Literal["linear"]
    width: int = Field(gt=0)
    weights: Location | None = None

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`: as many."""
        return tokens

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`: its own."""
        return self.width


class Neighbours(Definition):
    """Drops the class token and joins every `count` patches that follow each other in reading order into one feature,
    `count` times as wide. So MiniGPT-v2 affords 448 px: 1024 patches become 256 tokens, and nothing is discarded."""

    part: Literal["neighbours"]
    count: int = Field(ge=2)

    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`, of which the first is the class token."""
        return (tokens - 1) // self.count

    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`."""
        return width * self.count


ConnectorPart = Annotated[QFormer | Linear | Neighbours, Field(discriminator="part")]


class Decoder(Definition):
    """What every language model says. `qk_norm` and `attention_norm` are TinyGPT-V's additions: a norm per head on
    queries and keys before the rotary embedding, and an RMSNorm on the attention branch before the residual sum."""

    lora_targets: ClassVar[tuple[str, ...]]
    """The linear maps of its attention, which are what LoRA may adapt."""

    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    max_positions: int = Field(gt=0)
    qk_norm: bool
    attention_norm: bool
    weights: Location
    tokenizer: Location

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Phi(Decoder):
    """Phi-1.5's and Phi-2's decoder: attention and feed-forward side by side on one normalised input."""

    lora_targets = ("query_key_value", "dense")

    architecture: Literal["phi"]
    rotary_fraction: float = Field(gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Llama(Decoder):
    """Llama's decoder, which TinyLlama and Vicuna share: attention, then feed-forward. Several heads of queries may
    share one of keys and values (`heads` / `key_value_heads`)."""

    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj")

    architecture: Literal["llama"]
    key_value_heads: int = Field(gt=0)
    rope_theta: float = Field(default=10000.0, gt=0)
    rms_norm_eps: float = Field(gt=0)

    @model_validator(mode="after")
    def _queries_share_keys_evenly(self) -> Self:
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of key_value_heads {self.key_value_heads}")
        return self


LanguageModel = Annotated[Phi | Llama, Field(discriminator="architecture")]


class Model(Definition):
    """image → vision_encoder → connector parts in order → language_model."""

    vision_encoder: VisionEncoder
    connector: list[ConnectorPart] = Field(min_length=1)
    language_model: LanguageModel

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
        vision = self.vision_encoder
        parts = [part.weights for part in self.connector if not isinstance(part, Neighbours)]
        files = [vision.weights, vision.output_norm, *parts, self.language_model.weights]
        return [location for location in files if location is not None]

    @model_validator(mode="after")
    def _connector_ends_at_the_decoder(self) -> Self:
        width = self.vision_encoder.width
        for part in self.connector:
            width = part.output_width(width)
        if width != self.language_model.width:
            raise ValueError(
                f"connector[-1] gives features of width {width} but language_model.width is "
                f"{self.language_model.width}; the last connector part must speak the decoder's width"
            )
        return self

    @model_validator(mode="after")
    def _neighbours_come_first(self) -> Self:
        for position, part in enumerate(self.connector):
            if isinstance(part, Neighbours) and position:
                raise ValueError(
                    f"connector[{position}]: neighbours drops the vision encoder's class token, so it must come first"
                )
        return self

    def check_image_size(self, image_size: int) -> None:
        """Raises ValueError unless pictures of `image_size` px are cut into whole patches, and these into groups."""
        patch, first = self.vision_encoder.patch_size, self.connector[0]
        if image_size % patch:
            raise ValueError(f"{image_size} px is not a multiple of the patch size {patch}")
        patches = self.vision_encoder.num_tokens(image_size) - 1
        if isinstance(first, Neighbours) and patches % first.count:
            raise ValueError(
                f"{image_size} px gives {patches} patches, which connector[0] cannot join by {first.count}"
            )
