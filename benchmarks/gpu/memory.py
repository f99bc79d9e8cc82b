"""Limits and measures the GPU memory of this process. Without a GPU there is no limit."""

import resource

import torch

from benchmarks.gpu.orders import Held
from tinygptv.definitions.hardware import Hardware
from tinygptv.train.planning.estimate import RUNTIME_BYTES, limit


def limit_memory(hardware: Hardware) -> None:
    """Limit the allocator to the profile's `memory_gib`, minus what `plan` reserves for CUDA itself."""
    if hardware.device == "cuda" and (limit_bytes := limit(hardware)) is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (limit_bytes - RUNTIME_BYTES["cuda"]) / total))


def reset_peak(hardware: Hardware) -> None:
    """Free cached memory and reset the peak counters."""
    if hardware.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(hardware: Hardware) -> Held:
    """Peak memory of this process."""
    if hardware.device == "cpu":
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Held(allocated=resident, reserved=resident, beside=0)
    free, total = torch.cuda.mem_get_info()
    return Held(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        beside=total - free - torch.cuda.memory_reserved(),
    )
