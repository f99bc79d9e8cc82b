"""A vision encoder that no other file knows, with a way of its own to prepare pictures."""

from typing import Literal

from pydantic import Field

from tinygptv.definitions.parts import VisionEncoder
from tinygptv.definitions.preprocessing import Preprocessing


class Toy(VisionEncoder):
    """Patches without a class token."""

    class_token = False

    architecture: Literal["toy"]
    preprocessing: Preprocessing = Field(
        default=Preprocessing(mean=[0.5, 0.5, 0.5], deviation=[0.25, 0.25, 0.25], interpolation="bilinear", fit="pad")
    )
