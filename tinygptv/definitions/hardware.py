"""A hardware profile: how a recipe is run on a machine. It does not change what is learned."""

from pathlib import PurePath
from typing import Literal, Self

from pydantic import Field, model_validator

from tinygptv.definitions.base import Definition


class Hardware(Definition):
    """`ranks` processes per node with at most `micro_batch_size` samples each; accumulation fills the global batch.

    For planning: `memory_gib` is per device or, on `cpu`, for the whole machine, shared by its ranks (default: all of
    this machine's memory). `tflops` is the peak of one rank at `precision`, and `utilisation` the share of it that
    training reaches: an assumption until a run has been measured.

    With several `nodes`, `hosts` lists machines reachable by ssh, this one first; without it, the Slurm allocation is
    used. `rendezvous` is a `host:port`, by default on the first host. If a rank fails, all ranks are restarted, at most
    `restarts` times; a rank that reports no progress for `stall_seconds` counts as failed.

    Batches are prefetched by `loader_workers` processes per rank, or loaded in the rank itself. With `packing`, short
    samples share rows of a micro-batch: less padding and the same loss, but different dropout masks.

    With `gradient_checkpointing`, activations of the decoder's layers are recomputed instead of kept: a quarter more
    compute for a fraction of the memory. `if_needed` does so only in stages that would not fit comfortably otherwise.

    `offload` moves state from the device to host memory or, with `offload_folder` (an absolute path that exists on
    every node), to a fast local disk (NVMe).

    The output of the frozen parts is computed in every step or, with `features: cached`, once before training.

    `quantize_base: nf4` rounds the decoder's linear layers, which must be frozen, to 4 bits when they are loaded.
    Trained parameters are not rounded and can be used with any other profile, but they adapt to the rounded weights.
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
    def _a_quantized_base_is_not_partitioned(self) -> Self:
        if self.quantize_base != "none" and (self.zero_stage == 3 or self.offload == "optimizer_and_parameters"):
            raise ValueError(
                f"quantize_base: {self.quantize_base} needs the full model on every rank, but zero_stage: 3 and "
                "offload: optimizer_and_parameters partition its packed weights; use zero_stage: 2 (and offload: "
                "optimizer, if needed) or quantize_base: none"
            )
        return self

    @model_validator(mode="after")
    def _a_disk_takes_partitioned_state(self) -> Self:
        if self.offload_folder is None:
            return self
        if self.zero_stage != 3 or self.offload == "none":
            raise ValueError(
                f"offload_folder: {self.offload_folder} needs zero_stage: 3 and an offload, but has zero_stage: "
                f"{self.zero_stage} and offload: {self.offload}. DeepSpeed offloads only ZeRO-3 partitions to disk; "
                "use zero_stage: 3 with offload: optimizer or optimizer_and_parameters, or remove offload_folder"
            )
        if not PurePath(self.offload_folder).is_absolute():
            raise ValueError(f"offload_folder: {self.offload_folder} is not an absolute path; use one like /mnt/nvme")
        return self

    @property
    def world_size(self) -> int:
        """Total number of ranks on all nodes."""
        return self.ranks * self.nodes
