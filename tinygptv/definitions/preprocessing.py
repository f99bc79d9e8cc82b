"""How a picture becomes the values that a vision encoder takes; each encoder carries its own."""

from typing import Annotated, Literal

from pydantic import Field

from tinygptv.definitions.base import Definition

PerChannel = Annotated[list[float], Field(min_length=3, max_length=3)]
"""One value for red, green and blue, in units of [0, 1]."""


class Preprocessing(Definition):
    """Pixels in [0, 1] minus `mean`, divided by `deviation`, after a resize to a square. The defaults are CLIP's.

    `fit` says how a picture becomes square: `stretch` ignores the aspect ratio; `crop` resizes the shorter side and
    keeps the centre; `pad` fills the shorter sides up with the mean colour. Boxes count on the whole picture, so only
    `stretch` keeps them where the encoder sees them.
    """

    mean: PerChannel = Field(default=[0.48145466, 0.4578275, 0.40821073])
    deviation: PerChannel = Field(default=[0.26862954, 0.26130258, 0.27577711])
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fit: Literal["stretch", "crop", "pad"] = "stretch"


CLIP = Preprocessing()
