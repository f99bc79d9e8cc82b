"""EVA-CLIP's vision transformer, as BLIP-2 uses it."""

from typing import Literal

from tinygptv.definitions.base import Location
from tinygptv.definitions.parts import VisionEncoder


class EvaVit(VisionEncoder):
    """EVA-CLIP ViT as BLIP-2 uses it: class token kept, a LayerNorm (`ln_vision`) on the output.

    `image_size` (px) is the one it was pretrained at; a stage at another size interpolates the position table once.
    The output norm is BLIP-2's and lies in its file, which the Q-Former names; a model without one names it here, as
    `output_norm`, or begins with the identity.
    """

    published_prefixes = ("cls_token", "visual_encoder.")
    file_fields = ("weights", "output_norm")

    architecture: Literal["eva_vit"]
    output_norm: Location | None = None
