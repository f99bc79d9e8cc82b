"""What the torch file of each kind answers: how to build the part, read its published files, and write it for others.

`definitions/decoders/phi.py` says what a Phi is, `models/decoders/phi.py` of the same name how to build one; so it is
with vision encoders and connector parts. Loading, exporting and planning ask these classes and know no kind by name. A
new kind is a file in each of the two packages.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tinygptv.definitions.base import Location
from tinygptv.definitions.kinds import kind_of, load_kind, the_class
from tinygptv.definitions.parts import ConnectorPart, Decoder, VisionEncoder
from tinygptv.models.decoder import OwnLayers
from tinygptv.models.fused_qkv import FUSED, fuse_stock, to_stock
from tinygptv.models.stored import Stock, Table
from tinygptv.models.translation import COMPUTED, OWN_LAYOUT, Rules, Translation, drop_unused, prefixed, rename

V = TypeVar("V", bound=VisionEncoder)
C = TypeVar("C", bound=ConnectorPart)
D = TypeVar("D", bound=Decoder)

WeightFile = tuple[Location, Callable[[Table], Translation]]
"""Where a file lies, and how it is read."""


class VisionEncoderKind(ABC, Generic[V]):
    """A vision encoder; its parameters go by `vision_encoder.…`."""

    reference_rules: ClassVar[Rules] = ()
    """Names in a checkpoint of the published code, outside of `visual_encoder.`, → ours."""

    def __init__(self, definition: V) -> None:
        self.definition = definition

    @abstractmethod
    def build(self, image_size: int) -> nn.Module:
        """The encoder for pictures of `image_size` px, freshly initialised: (B, 3, H, W) -> (B, tokens, width)."""

    def read(self, table: Table) -> Translation:
        """Its published file, or one in our own layout, under our names."""
        return Translation(OWN_LAYOUT, prefixed("vision_encoder.", table), {})

    def files(self) -> list[WeightFile]:
        """All files that its definition names."""
        return [(self.definition.weights, self.read)]

    def fit(self, table: Table, image_size: int) -> None:
        """Change, in place, those of its tensors that depend on the size of the pictures; others may be in `table`."""

    def initializations(self, output_norm_is_read: bool) -> dict[re.Pattern[str], str]:
        """Which parameters need no file, and how they begin.

        `output_norm_is_read`: the file of a connector part holds the output norm.
        """
        return {}


class ConnectorPartKind(ABC, Generic[C]):
    """Part number `position` of a connector; its parameters go by `connector.<position>.…`."""

    def __init__(self, definition: C, position: int) -> None:
        self.definition, self.prefix = definition, f"connector.{position}."

    @abstractmethod
    def build(self, width: int) -> nn.Module:
        """The part behind tokens of `width`, freshly initialised: (I, tokens, width) -> (I, tokens, width)."""

    def read(self, table: Table) -> Translation:
        """Its published file, or one in our own layout, under our names."""
        return Translation(OWN_LAYOUT, prefixed(self.prefix, table), {})

    def files(self) -> list[WeightFile]:
        """All files that its definition names."""
        return [] if self.definition.file is None else [(self.definition.file, self.read)]

    def from_reference(self, projections: int) -> Rules:
        """Names in a checkpoint of the published code → ours; `projections` stand before this part."""
        return ()

    def to_reference(self, name: str, projections: int) -> str | None:
        """The published code's name of its parameter `name` (without our prefix); None if it has no place for it."""
        return None

    def reference_buffers(self) -> dict[str, Tensor]:
        """What the published code saves along, under its names."""
        return {}


class DecoderKind(ABC, Generic[D]):
    """A decoder family; its parameters go by `language_model.…`."""

    stock_class: ClassVar[type[PreTrainedModel]]
    """transformers' own model of the family."""

    def __init__(self, definition: D) -> None:
        self.definition = definition

    @abstractmethod
    def build(self) -> OwnLayers:
        """The decoder with our layers, freshly initialised."""

    @abstractmethod
    def stock_config(self) -> PretrainedConfig:
        """transformers' configuration of it."""

    def read(self, table: Table) -> Translation:
        """Its published weights, or those of ours, under our names; queries, keys and values fused where ours are."""
        kept, left_out = drop_unused(table, [COMPUTED])
        kept, layout = rename(kept, self.definition.published_names), "the stock layout"
        if self.definition.has_fused_qkv:
            if any(FUSED in name for name in kept):
                layout = "the fused layout"
            else:
                kept = fuse_stock(kept, self.definition.heads)
        return Translation(layout, prefixed("language_model.", kept), left_out)

    def files(self) -> list[WeightFile]:
        """All files that its definition names."""
        return [(self.definition.weights, self.read)]

    def initializations(self) -> dict[re.Pattern[str], str]:
        """Which of its parameters need no file, besides added norms and adapters, and how they begin."""
        return {}

    def to_stock(self, tensors: Mapping[str, Tensor]) -> Stock:
        """Tensors of this decoder, without `language_model.` before their names, in the stock layout. Exact."""
        return to_stock(tensors, self.definition)


def vision_encoder_kind(definition: VisionEncoder) -> VisionEncoderKind[Any]:
    """The kind of a vision encoder. Raises DefinitionError if the torch file is missing."""
    return _torch_class("vision_encoders", definition, VisionEncoderKind)(definition)


def connector_part_kind(definition: ConnectorPart, position: int) -> ConnectorPartKind[Any]:
    """The kind of a connector's part number `position`. Raises DefinitionError if the torch file is missing."""
    return _torch_class("connector_parts", definition, ConnectorPartKind)(definition, position)


def decoder_kind(definition: Decoder) -> DecoderKind[Any]:
    """The family of a decoder. Raises DefinitionError if the torch file is missing."""
    return _torch_class("decoders", definition, DecoderKind)(definition)


def _torch_class(package: str, definition: object, base: type) -> Any:
    return the_class(load_kind(f"tinygptv.models.{package}", kind_of(definition)), base)
