"""Recipe + hardware profile → DeepSpeed configuration. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Stage

# Trained tensors are a few million numbers at most per message; larger buckets only hold memory.
BUCKET_ELEMENTS = 50_000_000

# What the optimizer needs of a parameter that it has on a disk: value, two moments and gradient.
OPTIMIZER_BUFFERS = 4
# Parameters from a disk that are in use at the same time, at most: those of a module and of the ones around it.
PARAMETER_BUFFERS = 5
# A read or write; what is smaller than this, or than DeepSpeed's minimum of 1 MiB, stays in memory.
DISK_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Disk:
    """Where one rank swaps to, and the size of the largest parameter that will come from there, in elements."""

    folder: Path
    largest_parameter: int


def accumulation_steps(global_batch_size: int, ranks: int, micro_batch_size: int) -> int:
    """The fewest equal pieces, none above `micro_batch_size`, that make up a rank's share of the global batch."""
    share = global_batch_size // ranks
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= micro_batch_size)


def deepspeed_config(stage: Stage, hardware: Hardware, disk: Disk | None = None) -> dict[str, Any]:
    """What `deepspeed.initialize` takes. The optimizer is passed to it apart, the rate is set before every step.

    `disk` is given if the profile has an `offload_folder`.
    """
    ranks = hardware.world_size
    accumulation = accumulation_steps(stage.global_batch_size, ranks, hardware.micro_batch_size)
    return {
        "train_batch_size": stage.global_batch_size,
        "train_micro_batch_size_per_gpu": stage.global_batch_size // ranks // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": stage.optimizer.clip_norm or 0.0,
        "bf16": {"enabled": hardware.precision == "bf16"},
        "fp16": {"enabled": hardware.precision == "fp16"},
        "zero_optimization": _zero(hardware, disk),
        "aio": {"block_size": DISK_BLOCK_BYTES},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
        # It would wait for the device before and after every piece of a batch, only to tell what is told here anyway.
        "timers": {"throughput": {"enabled": False}},
    }


def _zero(hardware: Hardware, disk: Disk | None) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": hardware.zero_stage,
        "contiguous_gradients": hardware.device == "cuda",
        "overlap_comm": hardware.device == "cuda" and hardware.world_size > 1,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    place: dict[str, Any] = {"device": "nvme", "nvme_path": str(disk.folder)} if disk else {"device": "cpu"}
    if hardware.offload != "none":
        zero["offload_optimizer"] = place | ({"buffer_count": OPTIMIZER_BUFFERS} if disk else {})
    if hardware.offload == "optimizer_and_parameters":
        zero["offload_param"] = place | (_parameters_on(disk, hardware) if disk else {})
    if disk:
        # One parameter at a time. Of several together all but the first gradient might begin at an address at which
        # the disk cannot read or write directly, and DeepSpeed does not ask whether it could.
        zero["sub_group_size"] = 1
        # A parameter holds its buffer until it is released, and steps differ in which parameters they use: none is
        # kept for good or for its next use, none is brought ahead.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
        zero["stage3_prefetch_bucket_size"] = 0
    return zero


def _parameters_on(disk: Disk, hardware: Hardware) -> dict[str, Any]:
    share = -(-disk.largest_parameter // hardware.world_size)
    return {"buffer_count": PARAMETER_BUFFERS, "buffer_size": share, "max_in_cpu": 0}
