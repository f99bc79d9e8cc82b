"""A hardware profile: how a recipe fits a machine. It never changes what is learned."""

from pathlib import PurePath
from typing import Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition


class Hardware(Definition):
    """`ranks` processes per node, `micro_batch_size` samples per rank at most; accumulation fills the global batch.

    What a plan needs to know of the machine: `memory_gib` of one device, or of the whole machine, shared by its ranks,
    on `cpu` (by default all that this machine has); `tflops` at its peak, of one rank at `precision`; and the share of
    it that training reaches, an assumption until a run has been measured.

    On several `nodes`, `hosts` are those that ssh reaches, this machine first; without them a Slurm allocation says
    which. `rendezvous` is the `host:port` at which they meet, by default on the first of them. A group of ranks that
    loses one is started again, `restarts` times at most; one that shows no sign of life for `stall_seconds` is lost.

    Batches are made ahead of the step by `loader_workers` processes of each rank, or in the rank itself. With `packing`
    short samples share rows of a micro-batch: less padding, the same loss, dropout in other places.

    With `gradient_checkpointing` the decoder's layers run twice instead of being remembered, a quarter more work for a
    fraction of the memory; with `if_needed` only in stages that would not fit comfortably without it.

    What `offload` keeps off the device goes to the host's memory, or, with `offload_folder`, an absolute path on every
    node, to a fast local disk (NVMe), from which it is brought piece by piece.

    What the frozen parts make of a picture is computed in every step, or with `features: cached` once, before training.

    Like `precision`, `quantize_base` says in which numbers the model is kept: with `nf4` the decoder's linear maps,
    which must be frozen, are rounded to 4 bits when they are read. What is trained beside them is not, and is handed on
    to any other profile, but it learns to serve rounded maps.
    """

    about: str
    device: Literal["cpu", "cuda"]
    nodes: int = Field(default=1, ge=1)
    hosts: list[str] = Field(default_factory=list)
    rendezvous: str | None = None
    restarts: int = Field(default=2, ge=0)
    stall_seconds: float = Field(default=600, gt=0)
    ranks: int = Field(ge=1)
    threads_per_rank: int | None = Field(default=None, ge=1)
    micro_batch_size: int = Field(ge=1)
    loader_workers: int = Field(default=0, ge=0)
    packing: bool = False
    precision: Literal["fp32", "bf16", "fp16"]
    zero_stage: Literal[0, 1, 2, 3]
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    offload_folder: str | None = None
    gradient_checkpointing: bool | Literal["if_needed"] = False
    features: Literal["live", "cached"] = "live"
    quantize_base: Literal["none", "nf4"] = "none"
    memory_gib: float | None = Field(default=None, gt=0)
    tflops: float | None = Field(default=None, gt=0)
    utilisation: float = Field(default=0.4, gt=0, le=1)

    @model_validator(mode="after")
    def _hosts_are_all_named(self) -> Self:
        if self.hosts and len(self.hosts) != self.nodes:
            raise ValueError(f"hosts names {len(self.hosts)} machines but nodes is {self.nodes}")
        return self

    @model_validator(mode="after")
    def _a_quantized_base_is_whole(self) -> Self:
        if self.quantize_base != "none" and (self.zero_stage == 3 or self.offload == "optimizer_and_parameters"):
            raise ValueError(
                f"quantize_base: {self.quantize_base} needs the model whole on every rank, and zero_stage: 3 or "
                "offload: optimizer_and_parameters would cut its packed weights; take zero_stage: 2 (with offload: "
                "optimizer, if need be), or write quantize_base: none"
            )
        return self

    @model_validator(mode="after")
    def _a_disk_takes_what_is_cut(self) -> Self:
        if self.offload_folder is None:
            return self
        if self.zero_stage != 3 or self.offload == "none":
            raise ValueError(
                f"offload_folder: {self.offload_folder} needs zero_stage: 3 and an offload, and they are zero_stage: "
                f"{self.zero_stage} and offload: {self.offload}: DeepSpeed keeps on a disk only what ZeRO-3 has cut; "
                "write zero_stage: 3 with offload: optimizer or optimizer_and_parameters, or leave out offload_folder"
            )
        if not PurePath(self.offload_folder).is_absolute():
            raise ValueError(f"offload_folder: {self.offload_folder} is no absolute path; write one, such as /mnt/nvme")
        return self

    @property
    def world_size(self) -> int:
        """Ranks of all nodes together."""
        return self.ranks * self.nodes
