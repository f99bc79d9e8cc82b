"""What a process of `encode` needs to know."""

from tinygptv.definitions.base import Definition
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs, Lora


class EncodeJob(Definition):
    """All that a process needs to know. `frozen`: the parts that make the features, by prefix of their parameters.
    `handoff` holds what was trained of them, if anything was; `earlier` is an artifact whose features are the same,
    where it has them."""

    workdir: str
    model: Model
    lora: Lora | None
    inputs: Inputs
    frozen: tuple[str, ...]
    seed: int
    handoff: str | None
    hardware: Hardware
    earlier: str | None
