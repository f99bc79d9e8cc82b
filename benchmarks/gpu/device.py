"""What the device is and can do at best.

python -m benchmarks.gpu.device cuda|cpu ANSWER
"""

import platform
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.orders import Device

PEAKS = {
    "RTX 3090": 71.0,
    "RTX 4090": 165.2,
    "A100": 312.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H200": 989.0,
}
"""Dense bf16 TFLOP/s, products added up in 32 bits, by the data sheets; the first name that fits counts."""
SIDE, TIMES = {"cuda": 8192, "cpu": 512}, 10


def main() -> None:
    """Write the answer, or say in a line that there is no such device."""
    kind, answer = sys.argv[1:]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU; nvidia-smi says whether the machine has one")
    Path(answer).write_text(describe(kind).model_dump_json())


def describe(kind: str) -> Device:
    """The first device of its kind."""
    name, memory_gib = platform.processor() or platform.machine(), None
    if kind == "cuda":
        name, memory_gib = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory / 2**30
    return Device(
        name=name,
        memory_gib=memory_gib,
        measured_tflops=measured_tflops(kind),
        tflops=peak_tflops(name),
        torch=torch.__version__,
    )


def peak_tflops(name: str) -> float | None:
    """By the data sheet of a device called `name`; None if it is not known here."""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def measured_tflops(kind: str) -> float:
    """Of a large product in bf16: what no model can exceed here."""
    side = SIDE[kind]
    one, other = (torch.randn(side, side, device=kind, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    _wait(kind)
    started = time.perf_counter()
    for _ in range(TIMES):
        one @ other
    _wait(kind)
    return 2 * side**3 * TIMES / (time.perf_counter() - started) / 1e12


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
