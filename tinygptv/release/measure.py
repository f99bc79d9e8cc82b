"""Peak memory and speed of a release, measured in a separate process.

    python -m tinygptv.release.measure FOLDER

loads the model, generates 64 tokens twice, and prints one JSON line.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tinygptv.errors import LaunchError

_TOKENS = 64
_PROMPT_TOKENS = 16
_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Cost:
    """Memory is resident memory of the process in bytes. Speed is that of the second generation."""

    before_loading_bytes: int
    peak_bytes: int
    load_seconds: float
    tokens_per_second: float


def measure(folder: Path) -> Cost:
    """Measure a release in a new process. Raises LaunchError if that process fails."""
    command = [sys.executable, "-m", "tinygptv.release.measure", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        raise LaunchError(f"measuring {folder} failed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def memory(field: str) -> int:
    """`VmRSS` (current) or `VmHWM` (peak) of this process, in bytes.

    Not from getrusage: its maximum survives exec, so a child would report the peak of its parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LaunchError(f"/proc/self/status has no {field}; memory can only be measured on Linux")


def _cost_here(folder: Path) -> Cost:
    import torch

    from tinygptv.release.folder import load_release

    before = memory("VmRSS")
    started = time.perf_counter()
    model = load_release(folder).model
    loaded = time.perf_counter()
    side, tokens = model.image_size, model.num_image_tokens
    input_ids = torch.full((1, tokens + _PROMPT_TOKENS), -1)
    input_ids[:, tokens:] = 1
    pixel_values = torch.zeros(1, 3, side, side)
    seconds = 0.0
    for _ in range(2):
        generating = time.perf_counter()
        # No stops: every run generates the same number of tokens.
        model.generate(pixel_values, input_ids, torch.ones_like(input_ids), _TOKENS, stops=[])
        seconds = time.perf_counter() - generating
    return Cost(before, memory("VmHWM"), round(loaded - started, 3), round(_TOKENS / seconds, 2))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_cost_here(Path(sys.argv[1])))) + "\n")
