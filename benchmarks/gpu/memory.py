"""A limit on what one process may take of a GPU, and what it took. Without a GPU there is no limit."""

import resource

import torch

from benchmarks.gpu.orders import Held
from tinygptv.definitions.hardware import Hardware
from tinygptv.train.planning.estimate import RUNTIME_BYTES, limit


def limit_memory(hardware: Hardware) -> None:
    """From now on the allocator refuses what a device of the profile's `memory_gib` would not have.

    Context and libraries take some of it first: as much as `plan` reckons with is left to them.
    """
    if hardware.device == "cuda" and (most := limit(hardware)) is not None:
        there = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (most - RUNTIME_BYTES["cuda"]) / there))


def begin_counting(hardware: Hardware) -> None:
    """Give back what building a model left behind, and count from here."""
    if hardware.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def held_at_most(hardware: Hardware) -> Held:
    """The most that this process has held."""
    if hardware.device == "cpu":
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return Held(allocated=resident, reserved=resident, beside=0)
    free, total = torch.cuda.mem_get_info()
    return Held(
        allocated=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        beside=total - free - torch.cuda.memory_reserved(),
    )
