"""A decoder that no other file knows: a prompt sees all of itself, and image tokens have their own feed-forward."""

from typing import Literal

from tinygptv.definitions.parts import Decoder


class Toy(Decoder):
    """Its published weights are those of a Llama."""

    lora_targets = ("q_proj", "o_proj")
    attention = "prefix"
    config_types = ("toy",)

    architecture: Literal["toy"]
