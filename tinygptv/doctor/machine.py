"""What this machine is: room to write, and every device that computes."""

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tinygptv.doctor.processes import REINSTALL
from tinygptv.errors import SetupError
from tinygptv.store.artifacts import storage_errors

if TYPE_CHECKING:
    import torch

FREE_DISK_GIB = 2
_SIDE, _REPEATS = 1024, 5


def workdir_is_writable(workdir: Path) -> str:
    """Write, flush and rename in the workdir, with room to spare."""
    with storage_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=workdir) as folder:
            partial = Path(folder) / "partial"
            partial.write_text("complete or absent")
            partial.rename(partial.with_name("complete"))
    free = shutil.disk_usage(workdir).free / 2**30
    if free < FREE_DISK_GIB:
        raise SetupError(f"{workdir}: {free:.1f} GiB free, a tiny run wants {FREE_DISK_GIB}; free some space")
    return f"{workdir}: {free:.0f} GiB free"


def processor_computes() -> str:
    """Cores and memory that this process may use, and what torch makes of them."""
    import torch

    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{len(os.sched_getaffinity(0))} cores, {pages * page / 2**30:.0f} GiB, {computes(torch.device('cpu'))}"


def accelerators_compute() -> str:
    """Every accelerator's model and memory, and what torch makes of it."""
    import torch

    told = []
    for index in range(torch.cuda.device_count()):
        about, device = torch.cuda.get_device_properties(index), torch.device("cuda", index)
        told.append(f"{device}: {about.name}, {about.total_memory / 2**30:.0f} GiB, {computes(device)}")
    return "; ".join(told) or "none; the work is done by the processor"


def computes(device: "torch.device") -> str:
    """Multiply in float32 and in bf16, which some devices have in hardware and others imitate.

    Raises SetupError if a product is wrong.
    """
    import torch

    fastest = {}
    for dtype in (torch.float32, torch.bfloat16):
        ones, seconds = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype), []
        for _ in range(_REPEATS):
            begun = time.perf_counter()
            total = (ones @ ones).sum(dtype=torch.float32).item()
            seconds.append(time.perf_counter() - begun)
        if total != _SIDE**3:
            raise SetupError(f"torch computes wrongly on {device} in {dtype}: {total} for {_SIDE**3}; {REINSTALL}")
        fastest[dtype] = min(seconds)
    ratio = fastest[torch.float32] / fastest[torch.bfloat16]
    return f"torch {torch.__version__}, bf16 {ratio:.1f} x as fast as float32"
