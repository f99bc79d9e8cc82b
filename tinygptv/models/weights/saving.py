"""Trained tensors → files, complete or not at all."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.model import Model
from tinygptv.models.weights.reference import to_reference


def save_trained(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under their plain names as safetensors, in float32."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def save_reference(tensors: Mapping[str, Tensor], path: Path, definition: Model) -> None:
    """Write trained tensors as the `.pth` that the published code loads, without optimizer state."""
    torch.save({"model": to_reference(tensors, definition)}, path)
