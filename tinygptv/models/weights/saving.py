"""Trained tensors → files, complete or not at all."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_trained(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors under their plain names as safetensors, in float32."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)
