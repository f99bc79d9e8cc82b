"""The job of an `encode` process."""

from tinygptv.definitions.base import Definition
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Inputs, Lora


class EncodeJob(Definition):
    """All that an `encode` process needs to know.

    `frozen`: the parts that make the features, as their parameters' names begin. `handoff` holds what was trained of
    them, if anything was; `earlier` is an artifact with the same features, as far as it has them.
    """

    workdir: str
    model: Model
    lora: Lora | None
    inputs: Inputs
    frozen: tuple[str, ...]
    seed: int
    handoff: str | None
    hardware: Hardware
    earlier: str | None
