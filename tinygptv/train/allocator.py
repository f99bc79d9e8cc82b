"""The C library's allocator, set to return memory when the model is large."""

import ctypes

LARGE_MODEL_BYTES = 1_000_000_000
BLOCK_BYTES = 2**20

_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Have blocks of 1 MiB and more taken from the kernel, and returned to it when they are freed.

    glibc raises that limit to 32 MiB by itself. Smaller blocks stay in a heap that the tensors kept for the backward
    pass fragment: layers of the full size took three times the memory of their tensors (measured). Asking the kernel
    costs a small model a tenth of its speed, so only large models do. Does nothing under another C library.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
