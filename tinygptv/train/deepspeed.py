"""Recipe + hardware profile → DeepSpeed configuration. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Stage

# Trained tensors are a few million elements at most, so larger buckets would only waste memory.
BUCKET_ELEMENTS = 50_000_000

# What the optimizer swaps per parameter: value, two moments and gradient.
OPTIMIZER_BUFFERS = 4
# Swapped parameters in use at the same time, at most: those of a module and of the modules around it.
PARAMETER_BUFFERS = 5
# Size of a read or write. Tensors below it, or below DeepSpeed's minimum of 1 MiB, stay in memory.
DISK_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Disk:
    """Where one rank swaps to, and the size of the largest parameter that will come from there, in elements."""

    folder: Path
    largest_parameter: int


def accumulation_steps(global_batch_size: int, ranks: int, micro_batch_size: int) -> int:
    """The smallest number of equal micro-batches, none above `micro_batch_size`, in a rank's share of the batch."""
    share = global_batch_size // ranks
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= micro_batch_size)


def deepspeed_config(stage: Stage, hardware: Hardware, disk: Disk | None = None) -> dict[str, Any]:
    """The config for `deepspeed.initialize`. The optimizer is passed separately; the rate is set before every step.

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
        # It would synchronise with the device around every micro-batch, to measure what is measured here anyway.
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
        # One parameter at a time. Of several together, all but the first gradient might start at an address that is
        # not aligned for direct disk access, and DeepSpeed does not check.
        zero["sub_group_size"] = 1
        # A parameter holds its buffer until it is released, and steps use different parameters: none is kept in
        # memory for its next use, and none is prefetched.
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
        zero["stage3_prefetch_bucket_size"] = 0
    return zero


def _parameters_on(disk: Disk, hardware: Hardware) -> dict[str, Any]:
    share = -(-disk.largest_parameter // hardware.world_size)
    return {"buffer_count": PARAMETER_BUFFERS, "buffer_size": share, "max_in_cpu": 0}
