"""What every vision encoder, connector part and decoder says; each kind is a file of its own in its package.

Sizes use the field's words: `width` is the hidden size, `depth` the number of layers, `mlp_width` the inner size of the
feed-forward, all in units of features.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition, Location
from tinygptv.definitions.preprocessing import CLIP, Preprocessing

AttentionKind = Literal["causal", "prefix"]
"""Who sees whom: every token those before it; or also, among the tokens before the first answer, all of them."""


def _is_clip(preprocessing: Preprocessing) -> bool:
    return preprocessing == CLIP


class VisionEncoder(Definition):
    """A picture of `image_size` px or, with an interpolated position table, of another size → tokens of `width`.

    `preprocessing` is left out of what is dumped and hashed while it is CLIP's.
    """

    class_token: ClassVar[bool] = True
    """Whether the first token stands for the whole picture."""
    published_prefixes: ClassVar[tuple[str, ...]] = ()
    """How names of tensors begin in its published files."""
    file_fields: ClassVar[tuple[str, ...]] = ("weights",)
    """The fields that name weight files."""

    architecture: str
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    image_size: int = Field(gt=0)
    weights: Location
    preprocessing: Preprocessing = Field(default=CLIP, exclude_if=_is_clip)

    @property
    def files(self) -> dict[str, Location]:
        """The weight files that are named, by the field that names them."""
        named = {field: getattr(self, field) for field in self.file_fields}
        return {field: location for field, location in named.items() if location is not None}

    def num_tokens(self, image_size: int) -> int:
        """Tokens per image at `image_size` px, class token included."""
        return (image_size // self.patch_size) ** 2 + self.class_token

    def check_image_size(self, image_size: int) -> None:
        """Raises ValueError unless pictures of `image_size` px are cut into whole patches."""
        if image_size % self.patch_size:
            raise ValueError(f"{image_size} px is not a multiple of the patch size {self.patch_size}")


class ConnectorPart(Definition):
    """One step between the vision encoder and the decoder."""

    is_projection: ClassVar[bool] = False
    """Whether `connector.projections` trains it."""
    holds_output_norm: ClassVar[bool] = False
    """Whether its weight file also holds the output norm of the vision encoder."""
    published_prefixes: ClassVar[tuple[str, ...]] = ()
    """How names of tensors begin in its published files."""

    part: str

    @property
    def file(self) -> Location | None:
        """The weight file that it is read from, if there is one."""
        return None

    @property
    def initialization(self) -> str | None:
        """How its parameters begin where no file holds them; None if a file must."""
        return None if self.file else "connector parts at random"

    @abstractmethod
    def output_tokens(self, tokens: int) -> int:
        """Tokens per image that this part makes of `tokens`."""

    @abstractmethod
    def output_width(self, width: int) -> int:
        """Width of a token that this part makes of one of `width`."""

    def check_position(self, position: int, encoder: VisionEncoder) -> None:
        """Raises ValueError if the part cannot be number `position` (from 0) of a connector behind `encoder`."""

    def check_tokens(self, tokens: int) -> None:
        """Raises ValueError if the part cannot take `tokens` tokens per image."""


class Decoder(Definition):
    """What every language model says. `qk_norm` and `attention_norm` are TinyGPT-V's additions: a norm per head on
    queries and keys before the rotary embedding, and an RMSNorm on the attention branch before the residual sum."""

    lora_targets: ClassVar[tuple[str, ...]]
    """The linear maps of its attention, which are what LoRA may adapt."""
    attention: ClassVar[AttentionKind] = "causal"
    has_fused_qkv: ClassVar[bool] = False
    """Whether `query_key_value`, ordered [heads, 3, head width], stands for the stock `q_proj`, `k_proj`, `v_proj`."""
    stock_has_qk_norm: ClassVar[bool] = False
    """Whether transformers' own model has a place for the QK-norm."""
    published_prefixes: ClassVar[tuple[str, ...]] = ("model.layers.",)
    """How names of tensors begin in its published files."""
    published_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Names that differ from ours in some published files: (pattern, replacement), applied in order."""
    config_types: ClassVar[tuple[str, ...]]
    """Values of `model_type` in its `config.json`."""
    config_names: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "width": ("hidden_size",),
        "depth": ("num_hidden_layers",),
        "heads": ("num_attention_heads",),
        "mlp_width": ("intermediate_size",),
        "vocabulary": ("vocab_size",),
        "max_positions": ("max_position_embeddings",),
    }
    """What fields are called in its `config.json`; the first name that is there counts."""
    known_sizes: ClassVar[Mapping[tuple[int, int], str]] = {}
    """Well-known models by width and depth, for messages."""

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

    @classmethod
    def read_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """A stock `config.json` as fields of this class: all in which the two must agree; None where it is silent."""
        return {
            field: next((config[name] for name in names if name in config), None)
            for field, names in cls.config_names.items()
        }

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self
