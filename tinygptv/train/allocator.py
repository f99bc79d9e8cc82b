"""The C library's allocator, told to keep little when the model is large."""

import ctypes

LARGE_MODEL_BYTES = 1_000_000_000
BLOCK_BYTES = 2**20

_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """From now on take blocks of 1 MiB and more from the kernel, and give them back when they are freed.

    glibc raises that limit to 32 MiB by itself, and keeps what is below it in a heap that the tensors which wait for
    the backward pass break into pieces nothing else fits into: layers of the full size took three times the memory of
    their tensors (measured). Asking the kernel costs a small model a tenth of its speed, so that only large ones do.
    Does nothing under another C library.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, BLOCK_BYTES)
