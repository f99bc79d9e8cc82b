"""A hardware profile: how a recipe fits a machine. It never changes what is learned."""

from typing import Literal

from pydantic import Field

from tinygptv.definitions.base import Definition


class Hardware(Definition):
    """`ranks` processes per node, `micro_batch_size` samples per rank at most; accumulation fills the global batch.

    What a plan needs to know of the machine: `memory_gib` of one device, or of the whole machine, shared by its ranks,
    on `cpu` (by default all that this machine has); `tflops` at its peak, of one rank at `precision`; and the share of
    it that training reaches, an assumption until a run has been measured.
    """

    about: str
    device: Literal["cpu", "cuda"]
    nodes: int = Field(default=1, ge=1)
    ranks: int = Field(ge=1)
    threads_per_rank: int | None = Field(default=None, ge=1)
    micro_batch_size: int = Field(ge=1)
    precision: Literal["fp32", "bf16", "fp16"]
    zero_stage: Literal[0, 1, 2, 3]
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    gradient_checkpointing: bool = False
    memory_gib: float | None = Field(default=None, gt=0)
    tflops: float | None = Field(default=None, gt=0)
    utilisation: float = Field(default=0.4, gt=0, le=1)

    @property
    def world_size(self) -> int:
        """Ranks of all nodes together."""
        return self.ranks * self.nodes
