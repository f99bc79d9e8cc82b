"""Recipe + hardware profile → DeepSpeed configuration. Pure."""

from typing import Any

from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.recipe import Stage

# Trained tensors are a few million numbers at most per message; larger buckets only hold memory.
BUCKET_ELEMENTS = 50_000_000


def accumulation_steps(global_batch_size: int, ranks: int, micro_batch_size: int) -> int:
    """The fewest equal pieces, none above `micro_batch_size`, that make up a rank's share of the global batch."""
    share = global_batch_size // ranks
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= micro_batch_size)


def deepspeed_config(stage: Stage, hardware: Hardware) -> dict[str, Any]:
    """What `deepspeed.initialize` takes. The optimizer is passed to it apart, the rate is set before every step."""
    ranks = hardware.world_size
    accumulation = accumulation_steps(stage.global_batch_size, ranks, hardware.micro_batch_size)
    return {
        "train_batch_size": stage.global_batch_size,
        "train_micro_batch_size_per_gpu": stage.global_batch_size // ranks // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": stage.optimizer.clip_norm or 0.0,
        "bf16": {"enabled": hardware.precision == "bf16"},
        "fp16": {"enabled": hardware.precision == "fp16"},
        "zero_optimization": _zero(hardware),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
        # It would wait for the device before and after every piece of a batch, only to tell what is told here anyway.
        "timers": {"throughput": {"enabled": False}},
    }


def _zero(hardware: Hardware) -> dict[str, Any]:
    zero: dict[str, Any] = {
        "stage": hardware.zero_stage,
        "contiguous_gradients": hardware.device == "cuda",
        "overlap_comm": hardware.device == "cuda" and hardware.world_size > 1,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "allgather_bucket_size": BUCKET_ELEMENTS,
    }
    if hardware.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if hardware.offload == "optimizer_and_parameters":
        zero["offload_param"] = {"device": "cpu"}
    return zero
