"""What the C library keeps of freed tensors, in processes of their own."""

import subprocess
import sys

PROGRAM = """
import re, sys, torch
from pathlib import Path
from tinygptv.train.allocator import return_large_blocks

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

if sys.argv[1] == "return":
    return_large_blocks()
torch.zeros(7 * 2**20)  # 28 MiB: from its release on, glibc keeps whatever is smaller
before = resident()
tensors = [torch.zeros(2**19) for _ in range(64)]
del tensors[::2]
print(resident() - before)
"""


def megabytes_kept(how: str) -> float:
    """Of 128 MiB in pieces of 2, every other of which is freed."""
    return float(
        subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout
    )


def test_freed_blocks_between_others_go_back_to_the_machine() -> None:
    assert megabytes_kept("keep") > 110
    assert megabytes_kept("return") < 80
