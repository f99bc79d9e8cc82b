"""Trained tensors → files, complete or not at all."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tinygptv.definitions.model import Model
from tinygptv.definitions.recipe import Lora
from tinygptv.models.weights.reference import to_reference


def save_trained(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under their plain names as safetensors, in float32."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def save_reference(tensors: Mapping[str, Tensor], path: Path, definition: Model, lora: Lora | None = None) -> None:
    """Write trained tensors as the `.pth` that the published code loads, without optimizer state.

    Its `config` says how strongly the adapters `lora` act, in the published code's words.
    """
    config = {"model": {"lora_r": lora.rank, "lora_alpha": lora.alpha}} if lora else {}
    torch.save({"model": to_reference(tensors, definition), "config": config}, path)
