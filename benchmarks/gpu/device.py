"""The device's name, memory and peak speed.

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
"""Dense bf16 TFLOP/s with fp32 accumulation, from data sheets; the first matching name is used."""
SIDE, TIMES = {"cuda": 8192, "cpu": 512}, 10


def main() -> None:
    """Write the answer, or exit with a message if there is no such device."""
    kind, answer = sys.argv[1:]
    if kind == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no GPU; check nvidia-smi")
    Path(answer).write_text(describe(kind).model_dump_json())


def describe(kind: str) -> Device:
    """Describe the first device of this kind."""
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
    """Peak from the data sheet of the device `name`; None if unknown."""
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def measured_tflops(kind: str) -> float:
    """Speed of a large bf16 matrix product, an upper bound for any model."""
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
